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
from equilibrate_core.errors import StageError
from equilibrate_core.stage import Metrics, raise_child_error

SAVE_TIMEOUT_S = 3600
"""Seconds that processes told to stop are given to save; a pod's grace period may end sooner."""


def run_torchrun(
    module: str, arguments: Sequence[str], options: Sequence[str], metrics: Path
) -> Metrics:
    """Run a stage's module under torchrun; `metrics` is the file its scalars pass through.

    Raises what stopped a process, or StageError when none could say it.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    command += [f"--shutdown-timeout={SAVE_TIMEOUT_S}", "-m", module]
    code = _run_group([*command, "--metrics", str(metrics), *arguments])
    raise_child_error(metrics)
    if code or not metrics.is_file():
        raise StageError(f"{module}: torchrun ({' '.join(options)}) ended with code {code}")
    return json.loads(metrics.read_text())


def _run_group(command: list[str]) -> int:
    """Run torchrun and hand a SIGTERM on to it, which hands it on to its processes."""
    process = subprocess.Popen(ended_with_this(command))
    if threading.current_thread() is not threading.main_thread():
        return process.wait()

    def hand_on(number: int, frame: object) -> None:
        process.terminate()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
