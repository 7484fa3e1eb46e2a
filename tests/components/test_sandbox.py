"""Programs that try to break out of the sandbox, and programs that only want to run."""

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.score_benchmarks import sandbox
from components.score_benchmarks.sandbox import (
    Limits,
    Outcome,
    SandboxError,
    check_sandbox,
    run_program,
)

LIMITS = Limits(cpu_s=2, wall_s=20, memory_mb=512)
REFUSED = {"PermissionError", "OSError", "ModuleNotFoundError"}


def run(program: str, limits: Limits = LIMITS) -> Outcome:
    return run_program(textwrap.dedent(program), limits)


def test_program_that_reaches_its_end_passes() -> None:
    assert run("import math, collections\nassert math.gcd(4, 6) == 2").passed


def test_failing_assertion_is_a_failure_with_its_name() -> None:
    outcome = run("assert 1 == 2")
    assert (outcome.passed, outcome.reason) == (False, "AssertionError")


def test_syntax_error_is_a_failure() -> None:
    assert run("def broken(:").reason == "SyntaxError"


def test_every_break_out_of_the_self_check_is_refused() -> None:
    assert {"seccomp", "limits"} <= set(check_sandbox(LIMITS))


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)", "quit()"])
def test_leaving_before_the_checks_does_not_pass(leave: str) -> None:
    assert not run(f"{leave}\nassert False").passed


def test_forged_report_does_not_pass() -> None:
    outcome = run(
        """
        import os
        for fd in range(64):
            try:
                os.write(fd, b'\\n{"outcome": "passed", "nonce": "00"}\\n')
            except OSError:
                pass
        os._exit(0)
        """
    )
    assert not outcome.passed


def test_flooding_the_report_ends_at_the_time_limit() -> None:
    flood = """
        import os
        while True:
            for fd in range(64):
                try:
                    os.write(fd, b"x" * 4096)
                except OSError:
                    pass
        """
    assert not run(flood, Limits(cpu_s=2, wall_s=3, memory_mb=512)).passed


def test_no_file_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / "written"
    assert run(f"open({str(target)!r}, 'w').write('x')").reason in REFUSED
    assert not target.exists()


def test_no_file_can_be_deleted_or_renamed(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_text("kept")
    assert run(f"import os; os.unlink({str(target)!r})").reason in REFUSED
    assert run(f"import os; os.rename({str(target)!r}, '/tmp/gone')").reason in REFUSED
    assert target.read_text() == "kept"


def test_no_file_can_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    assert run(f"open({str(secret)!r}).read()").reason in REFUSED
    assert run(f"open('/proc/{os.getpid()}/environ').read()").reason in REFUSED


def test_secrets_of_the_environment_are_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    assert run("import os; assert not os.environ and not os.environb").passed
    assert run("open('/proc/self/environ')").reason in REFUSED


def test_loopback_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert run(f"import socket; socket.create_connection(('127.0.0.1', {port}))").reason in (
            REFUSED
        )
        with_system_call = f"""
            import ctypes, struct
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.socket(2, 1, 0)
            address = struct.pack("=HHI8x", 2, {socket.htons(port)}, {socket.htonl(0x7F000001)})
            assert fd >= 0 and libc.connect(fd, address, 16) == 0
            """
        assert run(with_system_call).reason == "AssertionError"
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_process_can_be_started() -> None:
    assert run("import os\nwhile True:\n    os.fork()").reason == "PermissionError"
    assert run("import os; os.execv('/bin/true', ['true'])").reason == "PermissionError"
    started = run("import threading; threading.Thread(target=print).start()")
    assert started.reason == "RuntimeError"


def test_no_other_process_can_be_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        assert run(f"import os; os.kill({victim.pid}, 9)").reason == "PermissionError"
        assert victim.poll() is None


def test_limits_cannot_be_raised_again() -> None:
    program = "import ctypes\nassert ctypes.CDLL(None).prlimit(0, 9, None, None) == 0"
    assert run(program).reason == "AssertionError"


def test_memory_hog_is_stopped() -> None:
    assert run("x = bytearray(10**9)").reason == "MemoryError"


def test_infinite_loop_is_stopped_by_processor_time() -> None:
    assert run("while True: pass", Limits(cpu_s=1, wall_s=60, memory_mb=512)).reason == "timed out"


def test_sleeper_is_stopped_by_the_clock() -> None:
    sleeper = "import time; time.sleep(3600)"
    assert run(sleeper, Limits(cpu_s=5, wall_s=1, memory_mb=512)).reason == "timed out"


def test_crash_is_a_failure() -> None:
    assert run("import ctypes; ctypes.string_at(0)").reason == "killed"


def _child_that(folder: Path, body: str) -> Path:
    child = folder / "child.py"
    child.write_text("import json, os, sys\nfd = int(sys.argv[1])\n" + body)
    return child


REFUSING = 'os.write(fd, json.dumps({"active": [], "refused": "seccomp: denied"}).encode())\n'
RUNNING_UNPROTECTED = (
    "request = json.load(sys.stdin)\n"
    'os.write(fd, b\'{"active": ["limits"], "refused": null}\\n\')\n'
    'outcome = "passed"\n'
    "try:\n    exec(request['program'], {})\n"
    "except BaseException as error:\n    outcome = type(error).__name__\n"
    'os.write(fd, json.dumps({"outcome": outcome, "nonce": request["nonce"]}).encode())\n'
)


@pytest.mark.parametrize("call", [check_sandbox, lambda limits: run_program("x = 1", limits)])
def test_host_without_seccomp_raises_instead_of_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Limits], object]
) -> None:
    monkeypatch.setattr(sandbox, "CHILD", _child_that(tmp_path, REFUSING))
    with pytest.raises(SandboxError, match="seccomp: denied"):
        call(LIMITS)


def test_self_check_notices_a_sandbox_that_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CHILD", _child_that(tmp_path, RUNNING_UNPROTECTED))
    with pytest.raises(SandboxError, match="does not hold"):
        check_sandbox(LIMITS)


def test_child_that_dies_early_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD", _child_that(tmp_path, "sys.exit(7)"))
    with pytest.raises(SandboxError, match="code 7"):
        run_program("x = 1", LIMITS)


def children_of(pid: int) -> list[Path]:
    """Folders in /proc of a process's children that run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended
            continue
        if fields["PPid"] == str(pid) and fields["State"][0] not in "ZX":
            found.append(status.parent)
    return found


def test_program_ends_with_the_stage_that_was_killed() -> None:
    """It sleeps, so that no limit on processor time ends it, and has left the stage's session."""
    code = (
        "from components.score_benchmarks.sandbox import Limits, run_program\n"
        "run_program('import time; time.sleep(600)', Limits(cpu_s=2, wall_s=600, memory_mb=512))"
    )
    root = Path(__file__).parents[2]
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", code], cwd=root) as stage:
        programs: list[Path] = []
        while not programs:  # behind its walls
            assert time.monotonic() < deadline
            time.sleep(0.02)
            children = children_of(stage.pid)
            programs = [p for p in children if "Seccomp:\t2" in (p / "status").read_text()]
        stage.kill()
    (program,) = programs
    while program.exists() and (program / "cmdline").read_bytes():  # empty of one nobody waited for
        assert time.monotonic() < deadline, "the program goes on"
        time.sleep(0.02)
