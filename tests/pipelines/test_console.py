"""The digest of a run that a person sees, from lines as kfp's local runner prints them."""

import io
from pathlib import Path

import pytest

from pipelines.console import RunConsole

LINES = """\
09:00:00.001 - INFO - Executing task \x1b[96m'import-data'\x1b[0m
09:00:00.002 - INFO - Streamed logs:
    2026-11-21 09:00:01,000 INFO read: 10/20 rows, 5.00/s, 2 s left
    [KFP Executor noise]
09:00:02.000 - INFO - Task \x1b[96m'import-data'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
09:00:02.001 - INFO - Task import-model cache hit (key=0123456789ab); skipping execution.
09:00:03.000 - INFO - Executing task \x1b[96m'train-policy'\x1b[0m
    error: loss is not finite at step 3; lower learning_rate
09:00:04 - ERROR - Task \x1b[96m'train-policy'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConsole, io.StringIO]:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    return RunConsole(tmp_path / "run.log"), screen


def test_a_task_among_several_of_its_stage_is_shown_with_its_title(console) -> None:
    reader, screen = console
    reader.titles = {"train-policy": "Train policy dpo+all"}
    reader.write(LINES)
    reader.finish()
    assert "✗ train-policy (Train policy dpo+all)" in screen.getvalue()
    assert "✓ import-data  " in screen.getvalue()


def test_tasks_their_outcomes_and_errors_are_read_off(console) -> None:
    reader, _ = console
    reader.write(LINES)
    reader.finish()
    assert [(task, outcome) for task, outcome, _ in reader.tasks] == [
        ("import-data", "ran"),
        ("import-model", "cached"),
        ("train-policy", "failed"),
    ]
    assert reader.task_errors == ["loss is not finite at step 3; lower learning_rate"]


def test_the_screen_shows_a_digest_and_the_log_everything(console) -> None:
    reader, screen = console
    reader.write(LINES)
    reader.finish()
    shown = screen.getvalue()
    assert "import-model  from cache" in shown
    assert "read: 10/20 rows" in shown
    assert "noise" not in shown
    assert "[KFP Executor noise]" in reader.log_path.read_text()


def test_lines_may_arrive_in_pieces(console) -> None:
    reader, _ = console
    for start in range(0, len(LINES), 7):
        reader.write(LINES[start : start + 7])
    reader.finish()
    assert len(reader.tasks) == 3
