"""ZeRO stages, gradient checkpointing and the number of processes do not change a training."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROGRAM = "tests.equilibrate_core.parallel_program"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def results(
    prefix: list[str], source: Path, target: Path, *names: str, program: str = PROGRAM
) -> dict[str, Any]:
    command = [sys.executable, *prefix, "-m", program, str(source), str(target), *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # Minutes after which processes that wait for each other give up.
    environment |= {"DEEPSPEED_TIMEOUT": "2"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(target, weights_only=True)


def test_every_zero_stage_on_one_and_two_processes_trains_alike(
    tiny_model: Path, tmp_path: Path
) -> None:
    alone = results([], tiny_model, tmp_path / "one.pt")
    together = results(TORCHRUN, tiny_model, tmp_path / "two.pt")
    plain = alone["zero-0"]
    assert len(plain["losses"]) >= 20
    for name, run in [*alone.items(), *together.items()]:
        error = (run["gradient"] - plain["gradient"]).norm() / plain["gradient"].norm()
        assert error <= 1e-5, name
        assert run["losses"][:20] == pytest.approx(plain["losses"][:20], abs=1e-4), name
    assert plain["moved"] > 100 * 1e-4
