"""Folders for temporary files, which a killed process does not leave behind for good.

Whoever makes one keeps a lock on it, which the kernel lets go when the process ends; the next one
to make one clears those without.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "equilibrate-scratch-"


def open_scratch() -> tuple[Path, int]:
    """An empty folder among the temporary ones and its lock, to be closed by `os.close`."""
    _clear_abandoned()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _locked(folder)
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:  # another process cleared it before the lock was there
            os.close(lock)


@contextmanager
def scratch() -> Generator[Path]:
    """An empty folder among the temporary ones, for the length of the block."""
    folder, lock = open_scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def own_temporary_files() -> Generator[Path]:
    """Have all temporary files, libraries' and children's too, in one folder that goes at the end.

    Some leave theirs: vllm the file at which its processes meet, torchrun its log folders. The path
    is short, for sockets are made there: a socket's has 107 bytes at most.
    """
    with scratch() as folder:
        before, tempfile.tempdir = (os.environ.get("TMPDIR"), tempfile.tempdir), str(folder)
        os.environ["TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            variable, tempfile.tempdir = before
            os.environ.pop("TMPDIR", None)
            if variable is not None:
                os.environ["TMPDIR"] = variable


def _clear_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            lock = _locked(folder, wait=False)
        except OSError:  # held, or another user's
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path, *, wait: bool = True) -> int | None:
    """Descriptor of a locked folder; None where it has gone. Raises OSError where it is held."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if not wait:
            os.close(lock)
            raise
        # A file system without locks: nobody can take one there, so nobody clears the folder.
    return lock
