"""Progress of long work: a bar for a person at a terminal, a line every few seconds for a log."""

import logging
import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 5.0
logger = logging.getLogger(__name__)


class Progress:
    """Counts work done; use as a context manager.

    `unit` names what is counted, `done` was done by an earlier run, `quiet` silences it (all
    processes but the first).
    """

    def __init__(
        self, label: str, *, total: int, unit: str = "row", done: int = 0, quiet: bool = False
    ) -> None:
        self.label, self.total, self.unit, self.quiet = label, total, unit, quiet
        self.done = self._done_before = done
        self._started = self._last_line = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() and not quiet else None
        self._task = (
            self._bar.add_task(label, total=total, completed=done, note="") if self._bar else None
        )

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif not self.quiet and kind is None:
            self._line("done")

    def advance(self, number: int, note: str = "") -> None:
        """Count `number` more as done and show `note` beside the rate."""
        self.done += number
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=number, note=note)
        elif not self.quiet and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._line(note)

    def skip(self, number: int, note: str = "") -> None:
        """Count `number` more as done by an earlier run: rate and time left leave them out."""
        self._done_before += number
        self.advance(number, note)

    def _line(self, note: str) -> None:
        self._last_line = time.monotonic()
        elapsed = max(self._last_line - self._started, 1e-9)
        rate = (self.done - self._done_before) / elapsed
        left = (
            f", {(self.total - self.done) / rate:.0f} s left"
            if rate > 0 and self.done < self.total
            else ""
        )
        logger.info(
            "%s: %d/%d %ss, %.2f/s%s%s",
            self.label,
            self.done,
            self.total,
            self.unit,
            rate,
            left,
            f", {note}" if note else "",
        )


def _bar() -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        transient=True,
    )
