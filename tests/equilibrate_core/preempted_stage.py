"""train_scorer under torchrun, told to stop at step 3: for test_checkpoints alone.

The process with rank 1 sends SIGTERM to the launcher named in EQUILIBRATE_TEST_LAUNCHER and waits
until the signal has come down to it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer as stage
from equilibrate_core.launch import run_stage
from equilibrate_core.stage import Metrics, configure_logging, report_error, stage_main
from equilibrate_core.training import Trainer
from tests.equilibrate_core.interrupted_runs import before, config


def tell_launcher(*_: Any) -> None:
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


def train_scorer(
    config: TrainScorerConfig, *, pairs: Path, base_model: Path, scorer: Path
) -> Metrics:
    if "EQUILIBRATE_TEST_LAUNCHER" in os.environ:
        before(Trainer, "_save_if_due", 3, tell_launcher)
    return stage(config, pairs=pairs, base_model=base_model, scorer=scorer)


def launch(folder: Path, zero_stage: int, *, preempt: bool) -> int:
    if preempt:
        os.environ["EQUILIBRATE_TEST_LAUNCHER"] = str(os.getpid())
    settings = config(zero_stage=zero_stage, checkpoint_uri=str(folder / "checkpoints-2"))
    paths = {"pairs": "pairs", "base_model": "model", "scorer": "two"}
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

    folder, zero_stage, preempt = sys.argv[1:]
    arguments: dict[str, Any] = {"preempt": json.loads(preempt)}
    raise SystemExit(preempted_stage.launch(Path(folder), int(zero_stage), **arguments))
