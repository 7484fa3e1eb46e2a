"""What a judge has answered so far, on disk as it comes, so that a restart asks nothing twice.

Answers are found again by what was asked: judge, backend, precision, sampling, constraint and text.
Changed prompts, models or rows are therefore asked anew, so is a retry on a machine where `auto`
comes to something else, and row order or shards do not matter.
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from equilibrate_core.artifacts import remove
from equilibrate_core.completions import Completion
from equilibrate_core.records import digest

ANSWERS = "answers.jsonl"
logger = logging.getLogger(__name__)
OnAnswer = Callable[[int, Completion], None]


class Ledger:
    """Answers in `folder`; use as a context manager, `discard` once their result is safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Completion] = {}
        self._file: TextIO | None = None

    @classmethod
    def beside(cls, output: Path, progress_dir: str | None, inputs: Mapping[str, str]) -> "Ledger":
        """Ledger of the stage that writes `output`: next to it, or inside `progress_dir`.

        There the digests of the stage's inputs are part of the name: the judges of several
        models' answers run at once, on the same volume. Runs over the same inputs share a folder,
        whatever their config: a judge that was mended goes on from what it had answered.
        """
        if progress_dir is None:
            return cls(output.parent / f".{output.name}.progress")
        return cls(Path(progress_dir) / f".{output.name}-{digest(dict(inputs))}.progress")

    def __enter__(self) -> "Ledger":
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ANSWERS
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < len(lines):  # the line during which the last attempt died
            os.truncate(path, sum(map(len, whole)))
        for line in whole:
            with suppress(ValueError, TypeError):  # a line the disk spoilt is asked again
                key, fields = json.loads(line)
                self.known[key] = Completion(**fields)
        self._file = path.open("a+", encoding="utf-8")  # NFS locks what can be read and written
        with suppress(OSError):  # a volume without locks
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def record(self, keys: Sequence[str], is_verdict: Callable[[Completion], bool]) -> OnAnswer:
        """A function that keeps the answer to `keys[row]` if it is a verdict.

        What is none is asked again: by then the judge may have been mended.
        """

        def keep(row: int, completion: Completion) -> None:
            if is_verdict(completion):
                self.known[keys[row]] = completion
                assert self._file is not None, "open the ledger first"
                self._file.write(json.dumps([keys[row], asdict(completion)]) + "\n")
                self._file.flush()  # survives the death of this process

        return keep

    def kept(self) -> str:
        """What a run that ends early says about its answers."""
        number = len(self.known)
        return f"{number} answers are kept in {self.folder}, the next attempt asks the rest"

    def discard(self) -> None:
        """Remove the folder: its answers are part of a finished artifact now.

        That artifact is safe, so a folder that cannot be removed is no failure. One that another
        run has open is left to it.
        """
        self._close()  # NFS keeps a removed file in its folder while it is open
        if self._is_in_use():
            logger.info("%s stays, another run is using it", self.folder)
            return
        try:
            remove(self.folder)
        except OSError as error:
            logger.warning("%s cannot be removed, remove it by hand: %s", self.folder, error)

    def _is_in_use(self) -> bool:
        """Whether another run has the answers open; on a volume without locks none seems to."""
        try:
            with (self.folder / ANSWERS).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
        return False

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def answer_key(judge: str, text: str, asked: dict[str, Any]) -> str:
    """Key of one answer: who was asked what, sampled and constrained how."""
    return digest([judge, text, asked])
