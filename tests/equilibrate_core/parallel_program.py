"""Trains a tiny scorer for 20 steps under each ZeRO stage: for test_parallel_training alone.

`… -m tests.equilibrate_core.parallel_program MODEL RESULT` writes, by setting, the losses, the
first step's gradient and the weights before and after.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad

from components.train_scorer.objective import ScorerObjective
from equilibrate_core.scorer import new_scorer_model
from equilibrate_core.training import Trainer
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import harm_pairs
from tests.equilibrate_core.interrupted_runs import before

SETTINGS = {
    "zero-0": {"zero_stage": 0},
    "zero-2": {"zero_stage": 2},
    "zero-3": {"zero_stage": 3},
    "zero-3-checkpointing": {"zero_stage": 3, "gradient_checkpointing": True},
}


def shard_everything() -> None:
    """Let ZeRO-3 shard the smallest tensors too: by default it keeps a tiny model whole."""
    original = deepspeed.initialize

    def initialize(*, config: dict[str, Any], **options: Any) -> Any:
        sharding = config["zero_optimization"]
        sharding["stage3_param_persistence_threshold"] = 0
        # A large model's weights are given back in forward and fetched again, a few ahead.
        sharding |= {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 1}
        return original(config=config, **options)

    deepspeed.initialize = initialize


def gradient_of(trainer: Trainer) -> torch.Tensor:
    """The whole gradient of all trained weights, flat and in the order of their names."""
    named = {n: p for n, p in trainer.engine.module.named_parameters() if p.requires_grad}
    assert not any(getattr(p, "ds_persist", False) for p in named.values()), "nothing is sharded"
    return torch.cat([safe_get_full_grad(named[n]).flatten().clone() for n in sorted(named)])


def trained(model_folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    from components.train_scorer.config import TrainScorerConfig
    from components.train_scorer.stage import encode_pairs
    from equilibrate_core.artifacts import Counts

    training = TrainingConfig(
        epochs=4,
        batch_size=8,
        micro_batch_size=2,
        learning_rate=1e-3,
        precision="float32",
        **settings,
    )
    config = TrainScorerConfig(kind="cost", held_out_share=0.1, training=training)
    model, tokenizer = new_scorer_model(model_folder, seed=0)
    rows, _ = encode_pairs(config, harm_pairs(40), tokenizer, Counts())
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = ScorerObjective(
        model,
        kind="cost",
        token_wise=True,
        regularization=0.001,
        pad_id=tokenizer.pad_token_id,
        precision="float32",
    )
    trainer: Trainer = Trainer(objective, training, seed=0)
    found: dict[str, Any] = {}

    def keep_gradient(*_: Any) -> None:
        found["gradient"] = gradient_of(trainer)

    def weights() -> torch.Tensor:
        with trainer.whole_weights():
            return torch.cat([p.detach().flatten() for p in objective.parameters()]).clone()

    start = weights()
    before(trainer.engine, "step", 1, keep_gradient)
    logs: list[dict[str, float]] = []
    trainer.train(rows, lambda row: row.length, logs.append, label="tiny")
    trainer.evaluate(rows[:2], lambda row: row.length)  # as the stages do before they save
    moved = float((weights() - start).abs().max())
    return {"losses": [r["loss"] for r in logs], "gradient": found["gradient"], "moved": moved}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shard_everything()
    results = {name: trained(Path(sys.argv[1]), s) for name, s in SETTINGS.items()}
    if dist.get_rank() == 0:
        torch.save(results, sys.argv[2])
