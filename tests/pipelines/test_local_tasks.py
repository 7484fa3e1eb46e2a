"""What a local run starts ends with it: told to stop, its stage saves; killed, all is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kfp.dsl import component_factory

from components.record_run.component import record_run
from equilibrate_core.scratch_folders import scratch
from pipelines.local_tasks import KFP_START, TOLD_TO_STOP, local_tasks
from pipelines.object_store import object_store

ROOT = Path(__file__).parents[2]
SAVING = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    time.sleep(0.2)
    (folder / "saved").touch()
    if sys.argv[2] == "obeys":
        sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
(folder / "begun").touch()
while True:
    time.sleep(0.01)
"""


def as_kfp_starts(code: str, *arguments: str) -> list[str]:
    """A command of the form that kfp gives a task."""
    script = f'\n  {KFP_START}{sys.executable} -c "$0" "$@"\n'
    return ["sh", "-ec", script, code, *arguments]


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def signals_once(path: Path, *later: Path) -> threading.Thread:
    """Send this process a SIGTERM as soon as each of the files is there."""

    def send() -> None:
        for file in (path, *later):
            until(file.exists, str(file))
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_stage_is_told_to_stop_and_waited_for_and_nothing_but_the_record_follows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sender = signals_once(tmp_path / "begun")
    with local_tasks() as tasks:
        assert tasks.run_process(as_kfp_starts(SAVING, str(tmp_path), "obeys")) == 75
        sender.join()
        assert (tmp_path / "saved").exists() and tasks.told_to_stop
        touch = f"open({str(tmp_path / 'next')!r}, 'w')"
        assert tasks.run_process(as_kfp_starts(touch)) == TOLD_TO_STOP
        assert not (tmp_path / "next").exists()
        assert tasks.run_process([*as_kfp_starts(touch), "record_run"]) == 0
        assert (tmp_path / "next").exists()
    assert capfd.readouterr().out == "begun\n"


LEAVING = """
import pathlib, subprocess, sys, tempfile
pathlib.Path(tempfile.mkdtemp(), "large").write_text("left")
subprocess.run(["mktemp", "-d"], check=True)
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL)],
)
def test_a_task_leaves_no_temporary_files_however_it_ends(
    fresh_tmpdir: Path, ending: str, code: int
) -> None:
    with local_tasks() as tasks:
        assert tasks.run_process(as_kfp_starts(LEAVING + ending)) == code
    assert list(fresh_tmpdir.iterdir()) == []


def test_a_second_signal_kills_a_stage_that_does_not_end(tmp_path: Path) -> None:
    sender = signals_once(tmp_path / "begun", tmp_path / "saved")
    with local_tasks() as tasks:
        code = tasks.run_process(as_kfp_starts(SAVING, str(tmp_path), "goes on"))
    sender.join()
    assert code == -signal.SIGKILL


def test_what_a_task_leaves_behind_does_not_hold_the_run_up(tmp_path: Path) -> None:
    started = time.monotonic()
    with local_tasks() as tasks:
        assert tasks.run_process(["sh", "-c", "sleep 600 & echo $! > pid; exit 3"]) == 3
    left = int(Path("pid").read_text())
    assert time.monotonic() - started < 30
    until(lambda: not Path(f"/proc/{left}/fd/1").exists(), "it was left running")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_kfp_still_starts_stages_from_a_shell_in_the_way_we_change() -> None:
    command = record_run.component_spec.implementation.container.command
    (script,) = [part for part in command if component_factory.EXECUTOR_MODULE in part]
    assert command[0] == "sh" and script.count(KFP_START) == 1
    assert f"{KFP_START}python3 -m {component_factory.EXECUTOR_MODULE}" in script


def marked(mark: str) -> dict[int, str]:
    """Command lines of the living processes with a mark in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except OSError:  # it has ended, or is not ours
            continue
    return found


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, 75), (signal.SIGINT, 75), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_store_and_stage_end_with_the_run(
    sent: signal.Signals, code: int, tmp_path: Path, fresh_tmpdir: Path
) -> None:
    laptop = yaml.safe_load((ROOT / "pipelines/configs/laptop.yaml").read_text())
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(laptop))
    mark = f"EQUILIBRATE_TEST_MARK={uuid.uuid4()}"
    name, value = mark.split("=")
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", "--config", "run.yaml"],
        env=os.environ | {name: value, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:

        def a_stage_runs() -> bool:
            assert run.poll() is None, run.communicate()[0]
            return any(component_factory.EXECUTOR_MODULE in line for line in marked(mark).values())

        until(a_stage_runs, "no stage was started", 120)
        assert any("server" in line and "-filer" in line for line in marked(mark).values())
        run.send_signal(sent)
        shown = run.communicate(timeout=60)[0]
    assert run.returncode == code, shown
    until(lambda: not marked(mark), f"left running: {marked(mark)}", 10)
    if code == 75:
        assert "error: told to stop: run it again" in shown
    else:  # what a killed run could not clear the next one does
        with object_store(tmp_path / "runs" / "object_store"), scratch():
            pass
    assert list(fresh_tmpdir.iterdir()) == []
