"""train_scorer on several nodes, told to stop at step 3 the first time: for test_train_node alone.

With EQUILIBRATE_TEST_PREEMPT set, the process with rank 1 gets a SIGTERM; the others hear of it
from that process alone.
"""

import os
import signal
from pathlib import Path

from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer as stage
from equilibrate_core.stage import Metrics, stage_main
from equilibrate_core.training import Trainer
from tests.equilibrate_core.interrupted_runs import before


def train_scorer(
    config: TrainScorerConfig, *, pairs: Path, base_model: Path, scorer: Path
) -> Metrics:
    if "EQUILIBRATE_TEST_PREEMPT" in os.environ and os.environ["RANK"] == "1":
        before(Trainer, "_save_if_due", 3, lambda *_: signal.raise_signal(signal.SIGTERM))
    return stage(config, pairs=pairs, base_model=base_model, scorer=scorer)


if __name__ == "__main__":
    raise SystemExit(stage_main(train_scorer, TrainScorerConfig))
