"""Trains a line on two processes, one of which finds the disk full: for test_checkpoints alone.

`torchrun … -m tests.equilibrate_core.full_disk FOLDER`: process 1 cannot write its part of the
first checkpoint. Process 0 writes the number of steps done to `steps` beside the folder.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.equilibrate_core.slow_store import trained


def fill_disk(*, at: int) -> None:
    """Let torch's file with this number meet a disk without room."""
    original = torch.save
    calls = iter(range(1, 10_000))

    def save(value: Any, path: Any, **options: Any) -> None:
        original(value, "/dev/full" if next(calls) == at else path, **options)

    torch.save = save


if __name__ == "__main__":
    target = Path(sys.argv[1])
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        fill_disk(at=1)
    logs = trained(target, zero_stage=2)
    if dist.get_rank() == 0:
        target.with_name("steps").write_text(str(len(logs)))
