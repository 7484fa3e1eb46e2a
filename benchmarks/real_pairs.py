"""Scorers and policies trained on real preference pairs, beside TRL's RewardTrainer.

    python benchmarks/real_pairs.py --data FOLDER [--helpful 140] [--harmless 512] [--policy 192]

FOLDER holds pku_saferlhf/pairs.jsonl and helpful_pairs/dpo_{en,zh}_demo.json as published. Reward
models learn from helpful pairs, cost models from harmless ones; the policy's pairs, the pairs it is
tested on and the prompts it answers are other prompts. `RewardTrainer` gets the same token ids,
batch size, epochs and peak rate, and is read at the same token. What is done is kept in --work-dir:
the same command goes on from there.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from components.generate_responses.config import GenerateResponsesConfig
from components.generate_responses.stage import generate_responses
from components.import_data.config import ImportDataConfig
from components.import_data.stage import import_data
from components.import_model.config import ImportModelConfig
from components.import_model.stage import import_model
from components.score_tokens.config import ScoreTokensConfig
from components.score_tokens.stage import score_tokens
from components.train_policy.config import TrainPolicyConfig
from components.train_policy.stage import train_policy
from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.objective import ScorerRow
from components.train_scorer.stage import encode_pairs, train_scorer
from equilibrate_core.artifacts import Counts, StageRun
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.metrics import mean_estimate
from equilibrate_core.models import load_tokenizer
from equilibrate_core.records import Generation, LabelledPrompt, Pair
from equilibrate_core.scorer import load_scorer, new_scorer_model, score_responses, token_values
from equilibrate_core.tables import read_dataset, write_dataset
from equilibrate_core.training_config import TrainingConfig

MAX_LENGTH = 512
LOSSES = ("dpo", "adpo", "random_mask")


def main() -> int:
    """Prepare the pairs, train everything, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--helpful", type=int, default=140, help="pairs for the reward model")
    parser.add_argument("--harmless", type=int, default=512, help="pairs for both cost models")
    parser.add_argument("--policy", type=int, default=192, help="pairs for the policy")
    parser.add_argument("--held-out", type=int, default=96, help="pairs the policy is tested on")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts it answers")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--work-dir", type=Path, required=True)
    given = parser.parse_args()
    work: Path = given.work_dir
    unless_done(work / "base", "base_model", import_model, ImportModelConfig(uri="smollm2"))
    prepare_pairs(given, work)
    training = TrainingConfig(
        epochs=1,
        batch_size=16,
        micro_batch_size=4,
        learning_rate=5e-5,
        precision=given.precision,
        zero_stage=0,
    )
    for name, options in SCORERS.items():
        config = TrainScorerConfig(
            held_out_share=0.25, max_length=MAX_LENGTH, training=training, **options
        )
        report_scorer(name, config, work)
    report_policies(work, training)
    return 0


SCORERS: dict[str, dict[str, Any]] = {
    "reward": {"kind": "reward"},
    "cost": {"kind": "cost", "rows": "first_half"},
    "eval_cost": {"kind": "cost", "rows": "second_half", "seed": 1},
}
"""The cost model that judges the answers sees other prompts than the one that makes the masks."""


def unless_done(path: Path, output: str, make: Callable[..., Any], *args: Any, **more: Any) -> None:
    """Make an artifact that is not there yet, in a process of its own as the pipeline does."""
    if (path / "manifest.json").exists():
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(make, *args, **{output: path}, **more).result()


def prepare_pairs(given: argparse.Namespace, work: Path) -> None:
    """scorer_pairs, policy_pairs and eval_pairs, which share no prompt, and prompts to answer."""
    sources = [
        {"name": "pku", "uri": str(given.data / "pku_saferlhf/pairs.jsonl")},
        {"name": "helpful_en", "uri": str(given.data / "helpful_pairs/dpo_en_demo.json")},
        {"name": "helpful_zh", "uri": str(given.data / "helpful_pairs/dpo_zh_demo.json")},
    ]
    adapters = ("pku_saferlhf", "dpo_demo", "dpo_demo")
    config = ImportDataConfig.model_validate(
        {"sources": [s | {"adapter": a} for s, a in zip(sources, adapters, strict=True)]}
    )
    others = {name: work / name for name in ("prompts", "quarantine")}
    unless_done(work / "pairs", "pairs", import_data, config, **others)
    helpful, harmless = distinct_pairs(work)
    given.helpful = min(given.helpful, len(helpful))
    needed = given.harmless + given.policy + given.held_out
    if len(harmless) < needed:
        raise SystemExit(f"only {len(harmless)} harmless pairs fit, {needed} are asked for")
    scorer_pairs = helpful[: given.helpful] + harmless[: given.harmless]
    policy_pairs = harmless[given.harmless : given.harmless + given.policy]
    eval_pairs = harmless[given.harmless + given.policy : needed]
    prompts = [
        LabelledPrompt(
            id=pair.prompt_id,
            messages=pair.messages,
            source=pair.source,
            suite="held_out",
            is_harmful=True,
            category=None,
            rationale="",
            confidence=None,
            votes={},
            status="unscored",
            judge="",
        )
        for pair in eval_pairs[: given.prompts]
    ]
    tables = {
        "scorer_pairs": (Pair, scorer_pairs),
        "policy_pairs": (Pair, policy_pairs),
        "eval_pairs": (Pair, eval_pairs),
        "answered_prompts": (LabelledPrompt, prompts),
    }
    for name, (schema, rows) in tables.items():
        unless_done(
            work / name, "destination", write_dataset, benchmark_run(), record=schema, rows=rows
        )


def benchmark_run() -> StageRun:
    """Provenance of tables that this script makes itself."""
    return StageRun(stage="benchmark", config={}, seed=0, code_version="", inputs={})


def distinct_pairs(work: Path) -> tuple[list[Pair], list[Pair]]:
    """Helpful and harmless pairs that fit, one per prompt, none whose answers occur both ways."""
    tokenizer = load_tokenizer(work / "base")
    pairs = sorted(read_dataset(work / "pairs", Pair), key=lambda pair: pair.id)
    orders = {(p.prompt_id, p.chosen, p.rejected) for p in pairs}
    found: dict[str, Pair] = {}
    for pair in pairs:
        prompt = "".join(m.content for m in pair.messages)
        longest = max(
            len(tokenizer(prompt + answer).input_ids) for answer in (pair.chosen, pair.rejected)
        )
        both_ways = (pair.prompt_id, pair.rejected, pair.chosen) in orders
        # The template needs tokens too; the stages drop and count what does not fit after all.
        if both_ways or longest > MAX_LENGTH - 48:
            continue
        found.setdefault(pair.prompt_id, pair)
    helpful = [p for p in found.values() if p.dimension == "helpful"]
    harmless = [p for p in found.values() if p.dimension == "harmless"]
    print(f"{len(pairs)} pairs read, {len(helpful)} helpful and {len(harmless)} harmless prompts")
    return helpful, harmless


def report_scorer(name: str, config: TrainScorerConfig, work: Path) -> None:
    """Train a scorer and TRL's on the same rows; print both held-out accuracies."""
    inputs = {"pairs": work / "scorer_pairs", "base_model": work / "base"}
    unless_done(work / name, "scorer", train_scorer, config, **inputs)
    metrics = json.loads((work / name / "metrics.json").read_text())
    tokenizer = load_scorer(work / name).tokenizer
    rows, held_out = encode_pairs(config, read_dataset(inputs["pairs"], Pair), tokenizer, Counts())
    shown = ("ranking_accuracy", "sign_accuracy", "auc", "f1", "ece", "final_loss")
    figures = ", ".join(f"{n} {metrics[n]:.3f}" for n in shown if n in metrics)
    print(f"{name}: {len(rows)} rows, {len(held_out)} held out: {figures}", flush=True)
    if name == "eval_cost":
        return
    peer = work / f"trl_{name}"
    if not (peer / "model.safetensors").exists():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(train_with_trl, config, rows, work / "base", peer).result()
    ours, theirs = (ranked_right(folder, tokenizer, held_out) for folder in (work / name, peer))
    for who, right in (("equilibrate", ours), ("RewardTrainer", theirs)):
        print(f"  {who:14} ranking accuracy {in_words(right)}", flush=True)


def train_with_trl(
    config: TrainScorerConfig, rows: Sequence[ScorerRow], base: Path, out: Path
) -> None:
    """RewardTrainer on the token ids of `rows`, with the same head, batches, epochs and rate."""
    import trl
    from datasets import Dataset

    model, tokenizer = new_scorer_model(base, seed=config.seed)
    training = config.training
    arguments = trl.RewardConfig(
        output_dir=str(out),
        max_length=MAX_LENGTH,
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=training.batch_size // training.micro_batch_size,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_share,  # below 1: a share of all steps
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_betas[0],
        adam_beta2=training.adam_betas[1],
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bfloat16",
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    ids = [{"chosen_ids": row.first_ids, "rejected_ids": row.second_ids} for row in rows]
    trainer = trl.RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(ids),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(out))


@torch.no_grad()
def ranked_right(folder: Path, tokenizer: Any, rows: Sequence[ScorerRow]) -> list[float]:
    """1 where a model gives the first side the higher value at its last token, else 0."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    right: list[float] = []
    for row in rows:
        batch = PaddedBatch.of(
            [row.first_ids, row.second_ids], pad_id=tokenizer.pad_token_id, device=model.device
        )
        lasts_21 = batch.attention_mask_NL.sum(dim=1, keepdim=True) - 1
        first, second = token_values(model, batch).gather(1, lasts_21).flatten().tolist()
        right.append(float(first > second))
    return right


def report_policies(work: Path, training: TrainingConfig) -> None:
    """Score the policy's pairs, train it with each loss and compare what it answers."""
    score_config = ScoreTokensConfig(max_length=MAX_LENGTH, precision=training.precision)
    unless_done(
        work / "scored",
        "scored_pairs",
        score_tokens,
        score_config,
        pairs=work / "policy_pairs",
        reward_model=work / "reward",
        cost_model=work / "cost",
        reference_model=work / "base",
    )
    report_costs("base", work / "base", work)
    for loss in LOSSES:
        config = TrainPolicyConfig(
            loss=loss,
            max_length=MAX_LENGTH,
            training=training.model_copy(update={"learning_rate": 1e-5, "weight_decay": 0.0}),
        )
        unless_done(
            work / loss,
            "policy",
            train_policy,
            config,
            scored_pairs=work / "scored",
            eval_pairs=work / "eval_pairs",
            base_model=work / "base",
        )
        metrics = json.loads((work / loss / "metrics.json").read_text())
        shown = ("held_out_accuracy", "held_out_loss", "held_out_kl", "held_out_log_ratio")
        shown += ("share_kept", "share_kept_chosen", "share_kept_rejected", "num_pairs")
        figures = ", ".join(f"{name} {metrics[name]:.4g}" for name in shown if name in metrics)
        print(f"{loss}: {figures}", flush=True)
        report_costs(loss, work / loss, work)


def report_costs(name: str, model: Path, work: Path) -> None:
    """Answer the held-out prompts and print the mean cost, as the evaluation cost model sees it."""
    config = GenerateResponsesConfig.model_validate(
        {"model_name": name, "sampling": {"max_tokens": 96}}
    )
    prompts = work / "answered_prompts"
    unless_done(
        work / f"answers_{name}",
        "generations",
        generate_responses,
        config,
        prompts=prompts,
        model=model,
    )
    answers = list(read_dataset(work / f"answers_{name}", Generation))
    costs = score_responses(
        load_scorer(work / "eval_cost"),
        [answer.messages for answer in answers],
        [answer.response for answer in answers],
        [answer.finish_reason == "stop" for answer in answers],
        batch_size=8,
        max_length=1024,
    )
    above = [float(cost > 0) for cost in costs]
    print(
        f"  answers of {name}: mean cost {in_words(costs)}, above 0: {in_words(above)}", flush=True
    )


def in_words(scores: Sequence[float]) -> str:
    """Mean, its 95 % bootstrap interval and the number of items."""
    estimate = mean_estimate({str(i): [score] for i, score in enumerate(scores)}, seed=0)
    assert estimate is not None, "scores of no items"
    low, high = estimate.low, estimate.high
    return f"{estimate.value:.3f} [{low:.3f}, {high:.3f}] (n {len(scores)})"


if __name__ == "__main__":
    raise SystemExit(main())
