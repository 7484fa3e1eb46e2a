"""A process that dies takes its stage with it, and no process leaves temporary files."""

from pathlib import Path

import pytest

from equilibrate_core.errors import StageError
from equilibrate_core.launch import run_stage
from tests.equilibrate_core.crashing_stage import CrashConfig, crash


def test_one_dead_process_of_two_fails_the_stage(
    tmp_path: Path, fresh_tmpdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with pytest.raises(StageError, match=r"crashing_stage: torchrun \(.*=2\) ended with code 1"):
        run_stage(crash, CrashConfig(), {"target": tmp_path / "target"})
    assert (tmp_path / "target").exists()  # the other process had finished
    assert list(fresh_tmpdir.iterdir()) == []


def test_processes_that_end_well_leave_no_temporary_files(
    tmp_path: Path, fresh_tmpdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    config = CrashConfig(crashes=False)
    assert run_stage(crash, config, {"target": tmp_path / "target"}) == {"finished": 1.0}
    assert list(fresh_tmpdir.iterdir()) == []
