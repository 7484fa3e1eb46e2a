"""A process ends with the one that started it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from equilibrate_core.end_with_parent import ended_with_this

ROOT = Path(__file__).parents[2]
PARENT = """
import subprocess, sys
from equilibrate_core.end_with_parent import ended_with_this
command = ["sh", "-c", "exec sleep 600"] if sys.argv[1] == "shell" else ["sleep", "600"]
print(subprocess.Popen(ended_with_this(command)).pid, flush=True)
sys.stdin.read()
"""


def command_of(pid: int) -> str:
    """Command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def until(condition, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["plain", "shell"])
def test_a_killed_process_takes_what_it_started_along(kind: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: command_of(child).startswith("sleep"), "the command did not start")
        os.kill(parent.pid, signal.SIGKILL)
        until(lambda: not command_of(child), "the command goes on")


def test_a_command_whose_parent_has_ended_meanwhile_is_not_started(tmp_path: Path) -> None:
    command = ended_with_this(["touch", str(tmp_path / "started")])
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "touch: not started" in done.stderr
    assert not (tmp_path / "started").exists()


def test_a_command_keeps_its_arguments_environment_exit_code_and_signals() -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['MINE']); sys.exit(7)"
    done = subprocess.run(
        ended_with_this([sys.executable, "-c", code, "a b", "--c"]),
        env=os.environ | {"MINE": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "['a b', '--c'] x\n")
    status = subprocess.run(
        ended_with_this(["grep", "SigIgn", "/proc/self/status"]), capture_output=True, check=True
    )
    assert int(status.stdout.split()[1], 16) & 1 << signal.SIGPIPE - 1 == 0
