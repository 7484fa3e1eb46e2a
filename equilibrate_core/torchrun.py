"""The processes of one node: a stage under torchrun, SIGTERM handed down, its errors told apart.

A stage's module and its arguments -> the scalars that its processes report.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from equilibrate_core.end_with_parent import ended_with_this
from equilibrate_core.errors import PeerLost, Preempted, StageError
from equilibrate_core.stage import PEER_LOST_CODE, Metrics, child_error

SAVE_TIMEOUT_S = 3600
"""Seconds that processes told to stop are given to save; a pod's grace period may end sooner."""


def run_torchrun(
    module: str, arguments: Sequence[str], options: Sequence[str], metrics: Path
) -> Metrics:
    """Run a stage's module under torchrun; `metrics` is the file its scalars pass through.

    What it leaves lies beside that file, torchrun's logs too: the folder is the caller's to remove.

    Raises what stopped a process, or StageError when none could say it. PeerLost: all that failed
    here lost a process that is not of this node. Preempted: SIGTERM came.
    """
    codes = metrics.with_name(f"{metrics.name}.codes")
    command = [sys.executable, "-m", "equilibrate_core.torchrun_agent", str(codes), *options]
    logs = metrics.with_name(f"{metrics.name}.logs")
    command += [f"--shutdown-timeout={SAVE_TIMEOUT_S}", f"--log-dir={logs}", "-m", module]
    code, told = _run_group([*command, "--metrics", str(metrics), *arguments])
    error = child_error(metrics)
    failed: dict[str, int] = json.loads(codes.read_text()) if codes.is_file() else {}
    if isinstance(error, PeerLost) and set(failed.values()) != {PEER_LOST_CODE}:
        error = None  # one of our own died without a word, and the others missed it
    if told and code and (error is None or isinstance(error, PeerLost)):
        raise Preempted(f"{module}: told to stop where there was nothing to save")
    if error is not None:
        raise error
    if code or not metrics.is_file():
        ended = "".join(f", process {rank} with {how}" for rank, how in failed.items())
        raise StageError(f"{module}: torchrun ({' '.join(options)}) ended with code {code}{ended}")
    return json.loads(metrics.read_text())


def _run_group(command: list[str]) -> tuple[int, bool]:
    """Run torchrun and hand a SIGTERM on to it, which hands it on to its processes.

    Returns its exit code, and whether it was told to stop.
    """
    process = subprocess.Popen(ended_with_this(command))
    if threading.current_thread() is not threading.main_thread():
        return process.wait(), False
    told: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        if not told:  # torchrun would stop waiting for its processes
            process.terminate()
        told.append(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        return process.wait(), bool(told)
    finally:
        signal.signal(signal.SIGTERM, before)
