"""Trains a line on two processes with a slow store, twice: for test_checkpoints alone.

`torchrun … -m tests.equilibrate_core.slow_store FOLDER`: collectives are given up after LIMIT_S,
and the store takes SLOW_S for the first checkpoint and to give one back. Process 0 writes both
trainings' records to `logs.json` beside the folder.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from equilibrate_core.artifacts import StageRun
from equilibrate_core.checkpoint_store import LocalStore
from equilibrate_core.checkpoints import checkpoints_of
from equilibrate_core.training import StepLog, Trainer
from tests.equilibrate_core.interrupted_runs import before
from tests.equilibrate_core.test_training import ROWS, Line, settings

LIMIT_S = 4
SLOW_S = 7


def wait(*_: Any) -> None:
    time.sleep(SLOW_S)


def trained(folder: Path, **changes: Any) -> list[StepLog]:
    config = settings(checkpoint_uri=str(folder), checkpoint_every_steps=3, **changes)
    run = StageRun(
        stage="train_scorer",
        config={"training": config.model_dump(mode="json")},
        seed=0,
        code_version="code",
        inputs={},
    )
    logs: list[StepLog] = []
    with checkpoints_of(run, config) as checkpoints:
        trainer: Trainer = Trainer(Line(), config, seed=0, checkpoints=checkpoints)
        _set_pg_timeout(timedelta(seconds=LIMIT_S))
        trainer.train(ROWS, lambda row: int(row[0]), logs.append, label="line")
    return logs


if __name__ == "__main__":
    before(LocalStore, "publish", 1, wait)
    before(LocalStore, "fetched", 1, wait)
    target = Path(sys.argv[1])
    both = [trained(target), trained(target)]
    if dist.get_rank() == 0:
        target.with_name("logs.json").write_text(json.dumps(both))
