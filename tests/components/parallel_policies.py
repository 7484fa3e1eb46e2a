"""Trains tiny policies under ZeRO stages, whole and with LoRA: for test_parallel_policies alone.

`… -m tests.components.parallel_policies FOLDER RESULT NAME…` reads FOLDER/{scored,eval,base} and
writes, by the name of a setting, the losses, the held-out KL, the first step's gradient and how
the saved weights moved.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from components.train_policy.config import AmaConfig, LoraConfig, TrainPolicyConfig
from components.train_policy.stage import train_policy
from equilibrate_core.training import Trainer
from equilibrate_core.training_config import TrainingConfig
from tests.equilibrate_core.interrupted_runs import before
from tests.equilibrate_core.parallel_program import SETTINGS, gradient_of, shard_everything

TRAINING = TrainingConfig(
    epochs=5,
    batch_size=8,
    micro_batch_size=2,
    learning_rate=1e-3,
    weight_decay=0.0,
    precision="float32",
    eval_every_steps=2,
)

BFLOAT16 = {
    f"zero-{stage}-bfloat16": {"zero_stage": stage, "precision": "bfloat16"} for stage in (0, 2, 3)
}


def config(name: str) -> TrainPolicyConfig:
    """`full-` or `lora-`, then a setting of the scorers' program or one in bfloat16."""
    kind, setting = name.split("-", 1)
    return TrainPolicyConfig(
        ama=AmaConfig(min_kept=0.0),
        lora=LoraConfig(rank=4) if kind == "lora" else None,
        training=TRAINING.model_copy(update=(SETTINGS | BFLOAT16)[setting]),
    )


def trained(folder: Path, policy: Path, settings: TrainPolicyConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep_gradient(trainer: Trainer) -> None:
        found["gradient"] = gradient_of(trainer)

    before(Trainer, "_plain_gradient_norm", 1, keep_gradient)
    train_policy(
        settings,
        scored_pairs=folder / "scored",
        eval_pairs=folder / "eval",
        base_model=folder / "base",
        policy=policy,
    )
    if dist.get_rank() == 0:
        log = [json.loads(x) for x in (policy / "training_log.jsonl").read_text().splitlines()]
        found["losses"] = [record["loss"] for record in log]
        found["kl"] = [record["held_out_kl"] for record in log if "held_out_kl" in record]
        new, old = (load_file(f / "model.safetensors") for f in (policy, folder / "base"))
        found["moved"] = torch.cat([(new[n] - old[n]).flatten() for n in sorted(old)])
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shard_everything()
    source, target, *names = sys.argv[1:]
    policies = Path(f"{target}.policies")
    results = {name: trained(Path(source), policies / name, config(name)) for name in names}
    if dist.get_rank() == 0:
        torch.save(results, target)
