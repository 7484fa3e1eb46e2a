"""FDC: assemble what the scorers, the policy and the held-out evaluation see.

labelled prompts + pairs -> scorer_pairs, train_pairs, eval_pairs, data card. The three share no
prompt, and none of them holds an evaluation prompt or anything like one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.assemble_dataset.config import AssembleDatasetConfig
from components.assemble_dataset.data_card import summarise, to_markdown
from components.assemble_dataset.selection import (
    fill_quotas,
    in_one_order,
    split_prompts,
    usable_prompts,
)
from equilibrate_core.artifacts import Counts, StageRun, write_text
from equilibrate_core.errors import DataError, StageError
from equilibrate_core.records import Category, LabelledPrompt, Pair
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset, write_dataset


def assemble_dataset(
    config: AssembleDatasetConfig,
    *,
    labelled_prompts: Path,
    pairs: Path,
    scorer_pairs: Path,
    train_pairs: Path,
    eval_pairs: Path,
    data_card: Path,
) -> Metrics:
    """Choose pairs by category quotas and split them by prompt."""
    run = start_stage("assemble_dataset", config, labelled_prompts=labelled_prompts, pairs=pairs)
    prompts = read_dataset(labelled_prompts, LabelledPrompt)
    counts = Counts()
    reasons = usable_prompts(prompts, config)
    usable = _usable_pairs(config, prompts, read_dataset(pairs, Pair), reasons, counts)
    parts = _split(config, usable, counts)
    parts["train_pairs"], shortage = fill_quotas(parts["train_pairs"], config, counts)
    counts.kept = sum(len(part) for part in parts.values())
    counts.check()
    _check_shortage(config, shortage)
    for name, part in parts.items():
        if not part:
            raise DataError(
                f"assemble_dataset: {name} is empty; of {counts.read} pairs {counts.dropped} were "
                "dropped: give more pairs or change quotas and shares"
            )
    numbers = {"read": len(prompts)} | {
        reason: list(reasons.values()).count(reason) for reason in sorted(set(reasons.values()))
    }
    card = summarise(counts, parts, shortage, numbers, config.selection)
    metrics: Metrics = {f"num_{name}": len(part) for name, part in parts.items()}
    metrics |= {f"shortage_{category}": missing for category, missing in shortage.items()}
    extra = {"data_card.json": json.dumps(card, indent=2), "metrics.json": json.dumps(metrics)}
    paths = {"scorer_pairs": scorer_pairs, "train_pairs": train_pairs, "eval_pairs": eval_pairs}
    for name, path in paths.items():
        _write(run, path, name, parts, counts, extra if name == "train_pairs" else {})
    write_text(data_card, to_markdown(card))
    return metrics


def _usable_pairs(
    config: AssembleDatasetConfig,
    prompts: Sequence[LabelledPrompt],
    pairs: Sequence[Pair],
    reasons: Mapping[str, str],
    counts: Counts,
) -> list[Pair]:
    """Pairs of usable prompts, each with its prompt's category."""
    labels = {prompt.id: _category(config, prompt) for prompt in prompts}
    usable: list[Pair] = []
    for pair in pairs:
        counts.read += 1
        if pair.prompt_id not in labels:
            counts.drop("prompt_not_labelled")
        elif pair.prompt_id in reasons:
            counts.drop(reasons[pair.prompt_id])
        else:
            usable.append(pair.model_copy(update={"category": labels[pair.prompt_id]}))
    return usable


def _category(config: AssembleDatasetConfig, prompt: LabelledPrompt) -> Category | None:
    if config.label == "judge":
        return prompt.category
    if config.label == "gold":
        return prompt.gold_category
    return prompt.gold_category or prompt.category


def _split(
    config: AssembleDatasetConfig, pairs: Sequence[Pair], counts: Counts
) -> dict[str, list[Pair]]:
    part_of = split_prompts({p.prompt_id for p in pairs}, config)
    parts = {
        name: sorted((p for p in pairs if part_of[p.prompt_id] == name), key=lambda p: p.id)
        for name in ("scorer", "train", "eval")
    }
    # A scorer learns each dimension by itself and may see both orders; a policy cannot.
    return {
        "scorer_pairs": parts["scorer"],
        "train_pairs": in_one_order(parts["train"], counts),
        "eval_pairs": in_one_order(parts["eval"], counts),
    }


def _check_shortage(config: AssembleDatasetConfig, shortage: Mapping[str, int]) -> None:
    missing = {category: number for category, number in shortage.items() if number}
    if config.strict_quotas and missing:
        raise StageError(
            f"assemble_dataset: quotas cannot be filled, missing {missing}; give more data, lower "
            "the quotas or set strict_quotas: false"
        )


def _write(
    run: StageRun,
    path: Path,
    name: str,
    parts: Mapping[str, Sequence[Pair]],
    counts: Counts,
    extra: dict[str, str],
) -> None:
    elsewhere = {f"in_{other}": len(part) for other, part in parts.items() if other != name}
    own = Counts(read=counts.read, kept=len(parts[name]), dropped=dict(counts.dropped) | elsewhere)
    write_dataset(run, path, Pair, parts[name], counts=own, extra_files=extra)


if __name__ == "__main__":
    raise SystemExit(stage_main(assemble_dataset, AssembleDatasetConfig))
