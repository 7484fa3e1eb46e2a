"""Run a program a model wrote and say whether it passed: the one place that executes such code.

source text -> Outcome. The program runs in a process of its own (sandbox_child.py) that cannot
open a file, reach a network or start a process, knows no environment variable, and is killed at
its limits. Where the kernel cannot give that, nothing is executed and SandboxError is raised.

A program shares its interpreter with the checks that judge it, so code written to deceive them
could do so; what it cannot do is touch anything outside.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equilibrate_core.errors import EquilibrateError

CHILD = Path(__file__).with_name("sandbox_child.py")
# The dynamic loader may need it to start Python at all; it is gone before the program starts.
KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
MAX_REPORT_BYTES = 65_536


class SandboxError(EquilibrateError):
    """The host cannot give the protection that running untrusted code requires."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    cpu_s: float = 10.0
    """Processor seconds (rounded up), interpreter start included."""
    wall_s: float = 40.0
    """Seconds on the clock, after which the process group is killed."""
    memory_mb: int = 1024
    """Address space in MiB."""


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    passed: bool
    reason: str
    """`passed`, `timed out`, `killed`, or the name of the exception that ended it."""
    protections: tuple[str, ...]
    """Protections in force while it ran."""


def run_program(program: str, limits: Limits) -> Outcome:
    """Run `program` to its end in the sandbox; it passes if it gets there without an exception.

    Raises SandboxError, without having run it, when the host cannot protect itself.
    """
    nonce = secrets.token_hex(16)
    request = {
        "program": program,
        "nonce": nonce,
        "cpu_s": limits.cpu_s,
        "memory_mb": limits.memory_mb,
    }
    code, lines = _run_child(json.dumps(request), limits.wall_s)
    if not lines or lines[0].get("refused", "no report"):
        reason = lines[0].get("refused") if lines else f"its process ended with code {code}"
        raise SandboxError(
            f"no sandbox for model-written code: {reason}; run on Linux (x86_64 or aarch64) where "
            "prctl(PR_SET_SECCOMP) is allowed, or leave out humaneval"
        )
    active = tuple(lines[0]["active"])
    if len(lines) < 2:
        timed_out = code in (None, -signal.SIGXCPU, -signal.SIGKILL)
        return Outcome(False, "timed out" if timed_out else "killed", active)
    last = lines[-1]
    passed = last.get("outcome") == "passed" and last.get("nonce") == nonce
    return Outcome(passed, str(last.get("outcome", "killed")), active)


def check_sandbox(limits: Limits) -> tuple[str, ...]:
    """Try to break out before any untrusted code runs; returns the protections in force.

    Raises SandboxError when an attempt succeeds, or when the sandbox cannot be had.
    """
    outcome = run_program(_BREAK_OUT, limits)
    if not outcome.passed:
        raise SandboxError(f"the sandbox does not hold on this host: {outcome.reason}")
    if run_program("assert False", limits).passed:
        raise SandboxError("the sandbox passes a program that fails")
    return outcome.protections


def _run_child(request: str, wall_s: float) -> tuple[int | None, list[dict[str, Any]]]:
    """Exit code (None when killed at the time limit) and report lines of one child."""
    environment = {n: os.environ[n] for n in KEPT_VARIABLES if n in os.environ}
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as stdin, open(reader, "rb", buffering=0) as results:
        stdin.write(request.encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                # -I: no environment, no user site, no script folder; -S: no site-packages.
                [sys.executable, "-I", "-S", "-B", str(CHILD), str(writer)],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        try:
            code: int | None = process.wait(timeout=wall_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return code, _report_lines(results.read(MAX_REPORT_BYTES) or b"")


def _report_lines(report: bytes) -> list[dict[str, Any]]:
    """Lines that are JSON objects; a program may have written rubbish between them."""
    lines: list[dict[str, Any]] = []
    for line in report.splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                lines.append(value)
    return lines


_BREAK_OUT = """
import os

def refused(what, action):
    try:
        action()
    except OSError:
        return
    raise RuntimeError(what)

refused("a file was opened", lambda: os.open("/", os.O_RDONLY))
refused("a file was written", lambda: open("/tmp/equilibrate-sandbox-probe", "w"))
refused("a folder was listed", lambda: os.listdir("/"))
refused("a process was started", os.fork)
refused("a signal was sent", lambda: os.kill(os.getppid(), 0))
refused("a program was executed", lambda: os.execv("/bin/true", ["true"]))
import ctypes
for name, arguments in (("socket", (2, 1, 0)), ("socket", (1, 1, 0)), ("unshare", (0x10000000,))):
    if ctypes.CDLL(None).__getattr__(name)(*arguments) >= 0:
        raise RuntimeError(f"{name} was allowed")
if os.environ:
    raise RuntimeError("environment variables are visible")
"""
