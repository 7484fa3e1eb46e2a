"""Train the policy with ADPO (or its controls) under DeepSpeed.

scored_pairs + eval_pairs + base model -> an aligned Hugging Face directory with its training log.
"""

import logging
import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from components.train_policy.config import TrainPolicyConfig
from components.train_policy.held_out import HeldOut, held_out_rows
from components.train_policy.masking import (
    PolicyRow,
    batch_mean,
    has_empty_mask,
    mask_statistics,
    masked,
    policy_row,
    randomly_masked,
)
from components.train_policy.objective import PolicyObjective
from components.train_policy.previews import mask_previews
from components.train_policy.scored_pairs import check_reference, check_rewards, fixed_baseline
from equilibrate_core.artifacts import Counts, StageRun, write_json
from equilibrate_core.batches import can_share
from equilibrate_core.checkpoints import Checkpoints, checkpoints_of
from equilibrate_core.compiling import check_kernels, compile_layers
from equilibrate_core.errors import DataError
from equilibrate_core.models import (
    bound_kernel_cache,
    check_processes,
    load_causal_lm,
    load_tokenizer,
)
from equilibrate_core.plain_head import has_plain_head
from equilibrate_core.records import Pair, ScoredPair
from equilibrate_core.scorer import pad_token
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset
from equilibrate_core.training import StepLog, Trainer
from equilibrate_core.training_log import live_events, write_training_log

logger = logging.getLogger(__name__)
EMPTY_MASKS = (
    "all tokens of an answer to the masks; take another ama.baseline or a finer "
    "score_tokens.segment, or, where answers have several segments, raise ama.min_kept"
)


def train_policy(
    config: TrainPolicyConfig,
    *,
    scored_pairs: Path,
    eval_pairs: Path,
    base_model: Path,
    policy: Path,
) -> Metrics:
    """Train the policy on scored pairs and report its held-out preference accuracy."""
    bound_kernel_cache()
    check_processes(config.num_processes)
    check_kernels(config.training.attention, compiles=config.training.compile, trains=True)
    run = start_stage(
        "train_policy",
        config,
        scored_pairs=scored_pairs,
        eval_pairs=eval_pairs,
        base_model=base_model,
    )
    check_reference(config, run.inputs["base_model"], scored_pairs)
    tokenizer = load_tokenizer(base_model)
    counts = Counts()
    rows = training_rows(config, scored_pairs, counts)
    eval_rows = held_out_rows(config, read_dataset(eval_pairs, Pair), tokenizer, counts)
    with checkpoints_of(run, config.training) as checkpoints, live_events(policy) as live:
        model = load_causal_lm(base_model, attention=config.training.attention)
        adapters, model = _with_lora(model, config)
        trainer = _trainer(config, model, tokenizer, checkpoints)
        held_out = HeldOut(config, eval_rows, trainer, model, adapters)
        steps = _train(config, rows, trainer, held_out, live)
        seen = _as_batched(config, rows, trainer)
        metrics = _metrics(steps, rows, seen, counts) | {"num_held_out": len(eval_rows)}
        metrics |= held_out.figures()
        with trainer.whole_weights():
            if trainer.rank == 0:
                merged = adapters.merge_and_unload() if adapters else model
                previews = mask_previews(seen[: config.num_previews], tokenizer)
                _save(run, policy, merged, tokenizer, metrics, steps, previews, counts)
    return metrics


def training_rows(config: TrainPolicyConfig, scored_pairs: Path, counts: Counts) -> list[PolicyRow]:
    """Rows with the masks of the configured loss; a pair with an empty mask is dropped."""
    rows = masked_rows(config, scored_pairs)
    counts.read += len(rows)
    kept = [row for row in rows if not has_empty_mask(row)]
    counts.kept += len(kept)
    if rows and not kept:
        raise DataError(f"train_policy: all {len(rows)} pairs lost {EMPTY_MASKS}")
    if len(rows) > len(kept):
        counts.drop("empty_mask", len(rows) - len(kept))
    return kept


def masked_rows(config: TrainPolicyConfig, scored_pairs: Path) -> list[PolicyRow]:
    """All rows with the masks of the configured loss; all-ones where those depend on the batch."""
    pairs = read_dataset(scored_pairs, ScoredPair)
    check_rewards(config, pairs, scored_pairs)
    rows = [policy_row(pair, config.ama) for pair in pairs]
    if config.loss == "dpo" or config.ama.baseline == "batch_mean":
        return rows
    return _with_masks(config, rows, fixed_baseline(config, scored_pairs))


def _apply_batch_mean(config: TrainPolicyConfig, batch: Sequence[PolicyRow]) -> list[PolicyRow]:
    if config.loss == "dpo" or config.ama.baseline != "batch_mean":
        return list(batch)
    rows = _with_masks(config, batch, batch_mean(batch))
    return [row for row in rows if not has_empty_mask(row)]


def _with_masks(
    config: TrainPolicyConfig, rows: Sequence[PolicyRow], baseline: float | None
) -> list[PolicyRow]:
    rows = [masked(row, config.ama, baseline) for row in rows]
    if config.loss == "random_mask":
        # By id: a row's draw is its own, whatever batch and place it has.
        rows = [randomly_masked(row, f"{config.seed}-{row.id}") for row in rows]
    return rows


def _trainer(
    config: TrainPolicyConfig, model: Any, tokenizer: Any, checkpoints: Checkpoints | None
) -> Trainer[PolicyRow]:
    if config.training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = PolicyObjective(
        model,
        beta=config.beta,
        pad_id=tokenizer.convert_tokens_to_ids(pad_token(tokenizer)),
        precision=config.training.precision,
    )
    if config.training.compile:
        compile_layers(model)
    return Trainer(objective, config.training, seed=config.seed, checkpoints=checkpoints)


def _train(
    config: TrainPolicyConfig,
    rows: Sequence[PolicyRow],
    trainer: Trainer[PolicyRow],
    held_out: HeldOut,
    live: Callable[[StepLog], None],
) -> list[StepLog]:
    steps: list[StepLog] = []

    def log(step: StepLog) -> None:
        steps.append(step)
        live(step)

    # Heads that are more than a projection keep the model's own code, which takes rows apart.
    is_shared = can_share(held_out.model) and has_plain_head(held_out.model)
    trainer.train(
        rows,
        attrgetter("shared_length" if is_shared else "length"),
        log,
        label=f"train policy ({config.loss})",
        prepare=lambda batch: _apply_batch_mean(config, batch),
        held_out=held_out.figures,
    )
    if not steps:
        raise DataError(f"train_policy: every pair lost {EMPTY_MASKS}")
    return steps


def _as_batched(
    config: TrainPolicyConfig, rows: Sequence[PolicyRow], trainer: Trainer[PolicyRow]
) -> list[PolicyRow]:
    """The rows, in order, as the loss sees them in the first epoch, less those it drops.

    With batch_mean the masks differ from batch to batch. They are made again, since a resumed run
    has not seen the batches before it.
    """
    batches = trainer.batches(len(rows))[: math.ceil(len(rows) / config.training.batch_size)]
    seen = [row for b in batches for row in _apply_batch_mean(config, [rows[i] for i in b])]
    places = {row.id: place for place, row in enumerate(rows)}
    return sorted(seen, key=lambda row: places[row.id])


def _metrics(
    steps: Sequence[StepLog],
    rows: Sequence[PolicyRow],
    seen: Sequence[PolicyRow],
    counts: Counts,
) -> Metrics:
    """Shares kept of the rows as the loss saw them, and the course of training."""
    return mask_statistics(seen) | {
        "num_pairs": len(rows),
        "num_dropped_empty_mask": counts.dropped.get("empty_mask", 0) + len(rows) - len(seen),
        "num_steps": len(steps),
        "first_step_loss": steps[0]["loss"],
        "final_loss": steps[-1]["loss"],
    }


def _with_lora(model: Any, config: TrainPolicyConfig) -> tuple[Any | None, Any]:
    """Adapters around the model (None without) and the module to train."""
    if config.lora is None:
        return None, model
    import peft

    settings = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(config.seed)  # adapters are drawn at random
    wrapped = peft.get_peft_model(model, settings)
    if config.training.gradient_checkpointing:
        model.enable_input_require_grads()
    return wrapped, wrapped.get_base_model()


def _save(
    run: StageRun,
    policy: Path,
    model: Any,
    tokenizer: Any,
    metrics: Metrics,
    steps: Sequence[StepLog],
    previews: dict[str, Any],
    counts: Counts,
) -> None:
    with run.output(policy, "model") as draft:
        draft.counts = counts
        model.save_pretrained(draft.path)
        tokenizer.save_pretrained(draft.path)
        write_json(draft.path / "metrics.json", metrics)
        write_json(draft.path / "mask_previews.json", previews)
        write_training_log(draft.path, steps)


if __name__ == "__main__":
    raise SystemExit(stage_main(train_policy, TrainPolicyConfig))
