"""Train the policy with ADPO (or its controls) under DeepSpeed.

scored_pairs + eval_pairs + base model -> an aligned Hugging Face directory with its training log.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from components.train_policy.config import LoraConfig, TrainPolicyConfig
from components.train_policy.masking import (
    AnswerRow,
    PolicyRow,
    batch_mean,
    dataset_mean,
    has_empty_mask,
    mask_statistics,
    masked,
    policy_row,
    randomly_masked,
)
from components.train_policy.objective import PolicyObjective
from equilibrate_core.artifacts import Counts, StageRun, read_manifest, write_json
from equilibrate_core.chat import encode_answer
from equilibrate_core.errors import ConfigError, DataError
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import Pair, ScoredPair
from equilibrate_core.scorer import pad_token
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset
from equilibrate_core.training import StepLog, Trainer

logger = logging.getLogger(__name__)


def train_policy(
    config: TrainPolicyConfig,
    *,
    scored_pairs: Path,
    eval_pairs: Path,
    base_model: Path,
    policy: Path,
) -> Metrics:
    """Train the policy on scored pairs and report its held-out preference accuracy."""
    run = start_stage(
        "train_policy",
        config,
        scored_pairs=scored_pairs,
        eval_pairs=eval_pairs,
        base_model=base_model,
    )
    tokenizer = load_tokenizer(base_model)
    counts = Counts()
    rows = training_rows(config, scored_pairs, counts)
    held_out = held_out_rows(config, read_dataset(eval_pairs, Pair), tokenizer)
    wrapped, model = _with_lora(load_causal_lm(base_model), config.lora)
    if config.training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = PolicyObjective(
        model,
        beta=config.beta,
        pad_id=tokenizer.convert_tokens_to_ids(pad_token(tokenizer)),
        precision=config.training.precision,
    )
    trainer: Trainer[PolicyRow] = Trainer(objective, config.training, seed=config.seed)
    held_out = _with_reference(held_out, trainer, config.beta)
    steps: list[StepLog] = []
    trainer.train(
        rows,
        lambda row: row.length,
        steps.append,
        label=f"train policy ({config.loss})",
        prepare=lambda batch: _apply_batch_mean(config, batch),
    )
    if not steps:
        raise DataError("train_policy: every pair lost all its tokens to the masks; raise min_kept")
    metrics = mask_statistics(rows) | _metrics(steps, trainer.evaluate(held_out), len(rows), counts)
    with trainer.whole_weights():
        if trainer.rank == 0:
            merged = wrapped.merge_and_unload() if config.lora else model
            previews = mask_previews(rows[: config.num_previews], tokenizer)
            _save(run, policy, merged, tokenizer, metrics, steps, previews, counts)
    return metrics


def training_rows(config: TrainPolicyConfig, scored_pairs: Path, counts: Counts) -> list[PolicyRow]:
    """Rows with the masks of the configured loss; a pair with an empty mask is dropped."""
    rows = [policy_row(pair, config.ama) for pair in read_dataset(scored_pairs, ScoredPair)]
    counts.read = len(rows)
    if config.loss != "dpo" and config.ama.baseline != "batch_mean":
        baseline = _fixed_baseline(config, scored_pairs)
        rows = [masked(row, config.ama, baseline) for row in rows]
        if config.loss == "random_mask":
            rows = [randomly_masked(r, f"{config.seed}-{i}") for i, r in enumerate(rows)]
    kept = [row for row in rows if not has_empty_mask(row)]
    counts.kept = len(kept)
    if len(rows) > len(kept):
        counts.drop("empty_mask", len(rows) - len(kept))
    return kept


def held_out_rows(
    config: TrainPolicyConfig, pairs: Sequence[Pair], tokenizer: Any
) -> list[PolicyRow]:
    """Unmasked rows of held-out pairs that fit, their reference log-probs still to come."""
    rows: list[PolicyRow] = []
    for pair in pairs:
        sides = [encode_answer(tokenizer, pair.messages, a) for a in (pair.chosen, pair.rejected)]
        if max(len(s.prompt_ids) + len(s.response_ids) for s in sides) > config.max_length:
            continue
        answers = [_unscored_answer(side.response_ids) for side in sides]
        rows.append(
            PolicyRow(sides[0].prompt_ids, *answers, first_difference=0, category="held_out")
        )
        if len(rows) == config.max_eval_pairs:
            break
    return rows


def mask_previews(rows: Sequence[PolicyRow], tokenizer: Any) -> dict[str, Any]:
    """Tokens, scores and kept marks of a few pairs, for the report."""

    def tokens(answer: AnswerRow) -> list[dict[str, Any]]:
        columns = zip(answer.token_ids, answer.scores, answer.mask, strict=True)
        return [
            {"token": tokenizer.decode([i]), "score": float(score), "kept": bool(kept)}
            for i, score, kept in columns
        ]

    return {
        "previews": [
            {
                "id": str(index),
                "prompt": tokenizer.decode(row.prompt_ids, skip_special_tokens=True),
                "chosen": tokens(row.chosen),
                "rejected": tokens(row.rejected),
            }
            for index, row in enumerate(rows)
        ]
    }


def _fixed_baseline(config: TrainPolicyConfig, scored_pairs: Path) -> float | None:
    baseline = config.ama.baseline
    segment = read_manifest(scored_pairs).config.get("segment")
    if baseline == "response_mean":
        if segment == "response":
            raise ConfigError(
                "train_policy.ama.baseline: response_mean with score_tokens.segment: response "
                "compares a number with itself; choose another baseline or segment"
            )
        return None
    if baseline == "dataset_mean":
        means = json.loads((scored_pairs / "token_means.json").read_text())
        return dataset_mean(config.ama, means)
    return 0.0 if baseline == "zero" else float(baseline)


def _apply_batch_mean(config: TrainPolicyConfig, batch: Sequence[PolicyRow]) -> list[PolicyRow]:
    if config.loss == "dpo" or config.ama.baseline != "batch_mean":
        return list(batch)
    mean = batch_mean(batch)
    rows = [masked(row, config.ama, mean) for row in batch]
    if config.loss == "random_mask":
        rows = [randomly_masked(r, f"{config.seed}-{i}") for i, r in enumerate(rows)]
    return [row for row in rows if not has_empty_mask(row)]


def _unscored_answer(token_ids: list[int]) -> AnswerRow:
    zeros_T = torch.zeros(len(token_ids))
    ones_T = torch.ones(len(token_ids), dtype=torch.bool)
    return AnswerRow(
        token_ids, [0.0] * len(token_ids), [0] * len(token_ids), zeros_T, zeros_T, ones_T
    )


def _with_reference(
    rows: Sequence[PolicyRow], trainer: Trainer[PolicyRow], beta: float
) -> list[PolicyRow]:
    """Give held-out rows the untrained policy's summed log-probs as their reference.

    With reference 0 the objective's rewards are beta times those sums; the whole sum is put on
    the first token, since only sums enter the unmasked loss.
    """
    figures = trainer.evaluate(rows)

    def anchored(answer: AnswerRow, reward: float) -> AnswerRow:
        rest = [0.0] * (len(answer.token_ids) - 1)
        return replace(answer, reference_logps=[reward / beta, *rest])

    return [
        replace(
            row,
            chosen=anchored(row.chosen, f["chosen_reward"]),
            rejected=anchored(row.rejected, f["rejected_reward"]),
        )
        for row, f in zip(rows, figures, strict=True)
    ]


def _metrics(
    steps: Sequence[StepLog], held_out: Sequence[dict[str, float]], num_rows: int, counts: Counts
) -> Metrics:
    metrics: Metrics = {
        "num_pairs": num_rows,
        "num_dropped_empty_mask": counts.dropped.get("empty_mask", 0),
        "num_steps": len(steps),
        "first_step_loss": steps[0]["loss"],
        "final_loss": steps[-1]["loss"],
        "num_held_out": len(held_out),
    }
    if held_out:
        names = ("accuracy", "loss", "chosen_reward", "rejected_reward")
        means = {n: sum(f[n] for f in held_out) / len(held_out) for n in names}
        metrics |= {f"held_out_{name}": value for name, value in means.items()}
    return metrics


def _with_lora(model: Any, lora: LoraConfig | None) -> tuple[Any, Any]:
    """Model wrapped in adapters (None without) and the module to train."""
    if lora is None:
        return None, model
    import peft

    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    wrapped = peft.get_peft_model(model, settings)
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
        lines = "".join(json.dumps(step) + "\n" for step in steps)
        (draft.path / "training_log.jsonl").write_text(lines)


if __name__ == "__main__":
    raise SystemExit(stage_main(train_policy, TrainPolicyConfig))
