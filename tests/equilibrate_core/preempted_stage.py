"""train_scorer under torchrun, ended before its end: for test_checkpoints alone.

`… -m tests.equilibrate_core.preempted_stage FOLDER ZERO_STAGE NAME END` keeps checkpoints at
FOLDER/checkpoints-NAME and makes the scorer NAME. END is one of ENDS, or `none`.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer as stage
from equilibrate_core.launch import run_stage
from equilibrate_core.stage import Metrics, configure_logging, report_error, stage_main
from equilibrate_core.training import Trainer
from tests.equilibrate_core.interrupted_runs import before, config, write_half_and_die


def tell_launcher(*_: Any) -> None:
    """Process 1 sends SIGTERM to the launcher and waits until the signal has come down to it."""
    if os.environ["RANK"] != "1":
        return
    came: list[int] = []
    own: Any = signal.getsignal(signal.SIGTERM)

    def noted(number: int, frame: Any) -> None:
        came.append(number)
        own(number, frame)

    signal.signal(signal.SIGTERM, noted)
    os.kill(int(os.environ["EQUILIBRATE_TEST_LAUNCHER"]), signal.SIGTERM)
    give_up = time.monotonic() + 120
    while not came:
        if time.monotonic() > give_up:
            raise TimeoutError("the launcher did not hand SIGTERM down")
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, own)


def stop_at_step_3() -> None:
    before(Trainer, "_save_if_due", 3, tell_launcher)


def kill_one_of_two_while_saving() -> None:
    if os.environ["RANK"] == "1":  # ZeRO 3 writes three files per process and checkpoint
        before(torch, "save", 5, write_half_and_die)


ENDS = {"preempted": stop_at_step_3, "killed": kill_one_of_two_while_saving}


def train_scorer(
    config: TrainScorerConfig, *, pairs: Path, base_model: Path, scorer: Path
) -> Metrics:
    if os.environ["EQUILIBRATE_TEST_END"] in ENDS:
        ENDS[os.environ["EQUILIBRATE_TEST_END"]]()
    return stage(config, pairs=pairs, base_model=base_model, scorer=scorer)


def launch(folder: Path, zero_stage: int, name: str, end: str) -> int:
    os.environ |= {"EQUILIBRATE_TEST_LAUNCHER": str(os.getpid()), "EQUILIBRATE_TEST_END": end}
    settings = config(zero_stage=zero_stage, checkpoint_uri=str(folder / f"checkpoints-{name}"))
    paths = {"pairs": "pairs", "base_model": "model", "scorer": name}
    try:
        run_stage(
            train_scorer,
            settings.model_copy(update={"num_processes": 2}),
            {name: folder / file for name, file in paths.items()},
        )
    except Exception as error:
        return report_error(error)
    return 0


if __name__ == "__main__" and "RANK" in os.environ:
    raise SystemExit(stage_main(train_scorer, TrainScorerConfig))
if __name__ == "__main__":
    configure_logging()
    from tests.equilibrate_core import preempted_stage  # torchrun needs the module's real name

    folder, zero_stage, name, end = sys.argv[1:]
    raise SystemExit(preempted_stage.launch(Path(folder), int(zero_stage), name, end))
