"""What a person sees of a local run: one line per task, a bar for long ones, the rest in a log.

kfp's local runner prints everything its tasks print; this reader keeps it all in a file and shows
what matters.
"""

import io
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from equilibrate_core.redaction import redact

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_START = re.compile(r"Executing task '(?P<task>[^']+)'")
_END = re.compile(r"Task '(?P<task>[^']+)' finished with status (?P<status>\w+)")
_CACHED = re.compile(r"Task (?P<task>\S+) cache hit")
PROGRESS = re.compile(r"INFO (?P<label>[^:]+): (?P<done>\d+)/(?P<total>\d+) (?P<rest>.*)$")
_ERROR = re.compile(r"^\s*error: (?P<message>.*)$")


class RunConsole(io.TextIOBase):
    """Stands in for stdout during a run: writes every line to `log_path`, shows a digest."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self.titles: Mapping[str, str] = {}
        """What tasks are called in the graph, where that says more than their names."""
        self.tasks: list[tuple[str, str, float]] = []
        """Task, outcome (ran, cached or failed) and seconds, in order."""
        self.task_errors: list[str] = []
        """Clear error lines that tasks printed."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = log_path.open("w", encoding="utf-8")
        self._console = Console(file=sys.stdout)
        self._partial = ""
        self._started = time.monotonic()
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._bar_label, self._bar_task = "", None

    def write(self, text: str) -> int:
        """Take output in pieces of any size."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._take(redact(_ANSI.sub("", line).rstrip("\r")))
        return len(text)

    def flush(self) -> None:
        """Bring the log up to date on disk."""
        self._log.flush()

    def finish(self) -> None:
        """Stop the bar and close the log."""
        if self._bar:
            self._bar.stop()
        self._log.close()

    def _take(self, line: str) -> None:
        self._log.write(line + "\n")
        if match := _START.search(line):
            self._started = time.monotonic()
            self._say(f"  … {self._title(match['task'])}")
        elif match := _CACHED.search(line):
            self._done(match["task"], "cached", 0.0)
        elif match := _END.search(line):
            outcome = "ran" if match["status"] == "SUCCESS" else "failed"
            self._done(match["task"], outcome, time.monotonic() - self._started)
        elif match := PROGRESS.search(line):
            self._progress(match)
        elif match := _ERROR.search(line):
            self.task_errors.append(match["message"])

    def _done(self, task: str, outcome: str, seconds: float) -> None:
        if self._bar and self._bar_task is not None:
            self._bar.update(self._bar_task, visible=False)
            self._bar_task = None
        self.tasks.append((_name(task), outcome, seconds))
        mark = {"ran": "✓", "cached": "=", "failed": "✗"}[outcome]
        took = f"{seconds:.0f} s" if outcome != "cached" else "from cache"
        self._say(f"  {mark} {self._title(task)}  {took}")
        self._log.flush()

    def _progress(self, match: re.Match[str]) -> None:
        if not self._bar:
            self._say(f"      {match['label']}: {match['done']}/{match['total']} {match['rest']}")
            return
        if self._bar_task is None or match["label"] != self._bar_label:
            self._bar.start()
            self._bar_label = match["label"]
            self._bar_task = self._bar.add_task(self._bar_label, total=int(match["total"]))
        self._bar.update(self._bar_task, completed=int(match["done"]))

    def _title(self, task: str) -> str:
        name = _name(task)
        return f"{name} ({self.titles[name]})" if name in self.titles else name

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _name(task: str) -> str:
    return task.removeprefix("comp-")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("      {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
