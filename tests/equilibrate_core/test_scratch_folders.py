"""What a killed process leaves in the temporary folder goes; what a live one has there stays."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from equilibrate_core import scratch_folders
from equilibrate_core.scratch_folders import PREFIX, open_scratch, scratch

HOLDER = """
import signal
from equilibrate_core.scratch_folders import open_scratch
folder, lock = open_scratch()
(folder / "file").write_text("large")
print(folder, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, here and in processes started from here."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_live_process_keeps_its_folder_and_a_killed_one_does_not(temporary: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        theirs = Path(holder.stdout.readline().strip())
    with scratch() as ours:
        assert (theirs / "file").read_text() == "large"
        assert ours.is_dir()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert list(temporary.iterdir()) == [theirs]
    with scratch() as ours:
        assert list(temporary.iterdir()) == [ours]
    assert list(temporary.iterdir()) == []


def test_a_folder_cleared_before_it_was_locked_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = scratch_folders._locked
    seen: list[Path] = []

    def late(folder: Path) -> int | None:
        seen.append(folder)
        if len(seen) == 1:
            folder.rmdir()
        return real(folder)

    monkeypatch.setattr(scratch_folders, "_locked", late)
    folder, lock = open_scratch()
    os.close(lock)
    assert folder.is_dir()
    assert folder == seen[1] != seen[0]


def test_what_is_not_ours_stays(temporary: Path) -> None:
    (temporary / "another").mkdir()
    (temporary / f"{PREFIX}link").symlink_to(temporary / "another")
    with scratch():
        pass
    assert {path.name for path in temporary.iterdir()} == {"another", f"{PREFIX}link"}
