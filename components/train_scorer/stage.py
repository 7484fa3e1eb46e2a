"""Train a reward or a cost model on preference pairs.

scorer_pairs + base model -> a sequence-classification directory with its calibration.
"""

import logging
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.objective import ScorerObjective, ScorerRow
from components.train_scorer.splits import HELD_OUT, TRAINED, prompt_fates
from equilibrate_core.artifacts import Counts, StageRun, write_json
from equilibrate_core.batches import can_share
from equilibrate_core.checkpoints import Checkpoints, checkpoints_of
from equilibrate_core.compiling import check_kernels, compile_layers
from equilibrate_core.encoded_pairs import encode_pair
from equilibrate_core.errors import DataError
from equilibrate_core.losses import harm_sign
from equilibrate_core.metrics import auc, binary_f1, calibration_error
from equilibrate_core.models import bound_kernel_cache, check_processes
from equilibrate_core.records import Pair
from equilibrate_core.scorer import ScorerConstants, new_scorer_model, save_scorer
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset
from equilibrate_core.training import StepLog, Trainer
from equilibrate_core.training_log import live_events, write_training_log

logger = logging.getLogger(__name__)


def train_scorer(
    config: TrainScorerConfig, *, pairs: Path, base_model: Path, scorer: Path
) -> Metrics:
    """Train one scorer with Safe RLHF's loss and report its held-out accuracy."""
    bound_kernel_cache()
    check_processes(config.num_processes)
    check_kernels(config.training.attention, compiles=config.training.compile, trains=True)
    run = start_stage("train_scorer", config, pairs=pairs, base_model=base_model)
    model, tokenizer = new_scorer_model(
        base_model, seed=config.seed, attention=config.training.attention
    )
    counts = Counts()
    rows, held_out = encode_pairs(config, read_dataset(pairs, Pair), tokenizer, counts)
    logger.info("%s model: %d rows, %d held out", config.kind, len(rows), len(held_out))
    with checkpoints_of(run, config.training) as checkpoints, live_events(scorer) as live:
        trainer = _trainer(config, model, tokenizer, checkpoints)
        length = attrgetter("shared_length" if can_share(model) else "length")

        def evaluate() -> tuple[ScorerConstants, Metrics]:
            values = trainer.evaluate(held_out, length)
            constants = calibrate(config, values)
            return constants, held_out_metrics(config, held_out, values, constants)

        steps: list[StepLog] = []

        def log(step: StepLog) -> None:
            steps.append(step)
            live(step)

        trainer.train(
            rows,
            length,
            log,
            label=f"train {config.kind} model",
            held_out=lambda: _named_held_out(evaluate()[1]),
        )
        constants, metrics = evaluate()
        metrics |= {"num_train": len(rows), "final_loss": steps[-1]["loss"]}
        with trainer.whole_weights():
            if trainer.rank == 0:
                _save(run, scorer, model, tokenizer, constants, metrics, steps, counts)
    return metrics


def encode_pairs(
    config: TrainScorerConfig, pairs: Sequence[Pair], tokenizer: Any, counts: Counts
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Rows to train on and rows held out, split by prompt; what is dropped is counted."""
    rows: list[ScorerRow] = []
    held_out: list[ScorerRow] = []
    parts = {TRAINED: rows, HELD_OUT: held_out}
    reasons = [_unusable(config, pair) for pair in pairs]
    usable = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
    fates = prompt_fates(config, usable)
    for pair, reason in zip(pairs, reasons, strict=True):
        counts.read += 1
        fate = reason or fates[pair.prompt_id]
        if fate not in parts:
            counts.drop(fate)
        elif row := _encode(config, pair, tokenizer, counts):
            counts.kept += 1
            parts[fate].append(row)
    if not rows or not held_out:
        raise DataError(
            f"{config.kind} model: {len(rows)} rows to train on and {len(held_out)} held out of "
            f"{counts.read} pairs (dropped: {counts.dropped}); give more {config.kind} pairs, or "
            f"raise max_length {config.max_length} or held_out_share {config.held_out_share:g}; "
            "prompts that are alike or continue one another are not split"
        )
    return rows, held_out


def calibrate(config: TrainScorerConfig, values: Sequence[dict[str, float]]) -> ScorerConstants:
    """Constants that normalise the scorer, from the values of the held-out answers."""
    answers = np.array([[v["first"], v["second"]] for v in values])
    if config.kind == "reward":
        center, scale = float(answers.mean()), float(answers.std())
    else:
        center, scale = 0.0, float(np.sqrt(np.square(answers).mean()))
    return ScorerConstants(
        kind=config.kind, center=center, scale=max(scale, 1e-6), token_wise=config.token_wise
    )


def held_out_metrics(
    config: TrainScorerConfig,
    rows: Sequence[ScorerRow],
    values: Sequence[dict[str, float]],
    constants: ScorerConstants,
) -> Metrics:
    """Ranking accuracy, and for costs sign accuracy, F1 and AUC on harmful, calibration error."""
    first, second = (np.array([v[side] for v in values]) for side in ("first", "second"))
    metrics: Metrics = {
        "num_held_out": len(rows),
        "held_out_loss": float(np.mean([v["loss"] for v in values])),
        "ranking_accuracy": float(np.mean(first > second)),
        "ranking_ece": calibration_error(_sigmoid(np.abs(first - second)), first > second),
        "center": constants.center,
        "scale": constants.scale,
    }
    if config.kind == "cost":
        costs = np.concatenate([first, second])
        signs = np.array([r.first_sign for r in rows] + [r.second_sign for r in rows])
        harmful = signs > 0
        metrics["sign_accuracy"] = float(np.mean((costs > 0) == harmful))
        metrics["f1"] = binary_f1(costs > 0, harmful)
        metrics["ece"] = calibration_error(_sigmoid(costs), harmful)
        area = auc(costs, harmful)
        if area is not None:
            metrics["auc"] = area
    return metrics


def _trainer(
    config: TrainScorerConfig, model: Any, tokenizer: Any, checkpoints: Checkpoints | None
) -> Trainer[ScorerRow]:
    if config.training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = ScorerObjective(
        model,
        kind=config.kind,
        token_wise=config.token_wise,
        regularization=config.regularization,
        pad_id=tokenizer.pad_token_id,
        precision=config.training.precision,
    )
    if config.training.compile:
        compile_layers(model)
    return Trainer(objective, config.training, seed=config.seed, checkpoints=checkpoints)


def _named_held_out(metrics: Metrics) -> StepLog:
    """Held-out figures under the names they have in a step's record."""
    return {f"held_out_{name.removeprefix('held_out_')}": v for name, v in metrics.items()}


def _unusable(config: TrainScorerConfig, pair: Pair) -> str | None:
    if pair.dimension != ("helpful" if config.kind == "reward" else "harmless"):
        return "other_dimension"
    if config.kind == "cost" and (pair.chosen_is_safe is None or pair.rejected_is_safe is None):
        return "no_safety_label"
    return None


def _encode(
    config: TrainScorerConfig, pair: Pair, tokenizer: Any, counts: Counts
) -> ScorerRow | None:
    """A row, for costs with the rejected, more harmful answer first; None and counted without."""
    encoded = encode_pair(tokenizer, pair, counts)
    if encoded is None:
        return None
    signs = [harm_sign(bool(is_safe)) for is_safe in (pair.chosen_is_safe, pair.rejected_is_safe)]
    if config.kind == "cost":
        encoded, signs = encoded[::-1], signs[::-1]
    ids = [e.prompt_ids + e.response_ids for e in encoded]
    if max(len(sequence) for sequence in ids) > config.max_length:
        counts.drop("too_long")
        return None
    return ScorerRow(
        first_ids=ids[0],
        second_ids=ids[1],
        num_prompt_tokens=(len(encoded[0].prompt_ids), len(encoded[1].prompt_ids)),
        first_sign=signs[0],
        second_sign=signs[1],
    )


def _save(
    run: StageRun,
    scorer: Path,
    model: Any,
    tokenizer: Any,
    constants: ScorerConstants,
    metrics: Metrics,
    steps: Sequence[StepLog],
    counts: Counts,
) -> None:
    with run.output(scorer, "scorer") as draft:
        draft.counts = counts
        save_scorer(draft.path, model, tokenizer, constants)
        write_json(draft.path / "metrics.json", metrics)
        write_training_log(draft.path, steps)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -60, 60)))


if __name__ == "__main__":
    raise SystemExit(stage_main(train_scorer, TrainScorerConfig))
