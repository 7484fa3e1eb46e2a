"""A stage whose process of rank 1 ends in several ways while the others wait: for test_train_node.

Processes of a killed node end by the kernel; those of the others find a connection closed.
"""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from equilibrate_core.config import StageConfig
from equilibrate_core.errors import DataError
from equilibrate_core.stage import Metrics, stage_main


class FateConfig(StageConfig):
    fate: str = "killed"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def meet(config: FateConfig, *, target: Path) -> Metrics:
    if config.fate == "waits":
        print("begun", flush=True)
        time.sleep(600)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    dist.barrier()
    if os.environ["RANK"] == "1":
        if config.fate == "killed":
            os.kill(parent_of(os.getppid()), signal.SIGKILL)  # the node's first process
            time.sleep(600)
        if config.fate == "errs":
            raise DataError("a row that cannot be used")
        os._exit(9)
    while True:
        dist.all_reduce(torch.zeros(1))


if __name__ == "__main__":
    raise SystemExit(stage_main(meet, FateConfig))
