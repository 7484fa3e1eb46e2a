"""classify_prompts: a judge sorts every prompt into EHD, IHD, MHD or NONE.

prompts -> labelled_prompts with metrics.json and, where there are gold labels, agreement.json.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from components.classify_prompts.config import ClassifyPromptsConfig
from equilibrate_core.artifacts import Counts
from equilibrate_core.generator import open_generator
from equilibrate_core.judge import Judgement, ask, judge_name
from equilibrate_core.judge_question import Question
from equilibrate_core.metrics import Agreement, agreement
from equilibrate_core.records import CATEGORIES, LabelledPrompt, Prompt
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset, write_dataset

CATEGORY = Question.load(
    Path(__file__).parent / "prompts" / "category_v1.md", field="category", labels=CATEGORIES
)


def classify_prompts(
    config: ClassifyPromptsConfig, *, prompts: Path, judge_model: Path, labelled_prompts: Path
) -> Metrics:
    """Sort every prompt into EHD, IHD, MHD or NONE and measure agreement with gold labels."""
    run = start_stage("classify_prompts", config, prompts=prompts, judge_model=judge_model)
    rows = read_dataset(prompts, Prompt)
    parts = [{"REQUEST": prompt.messages} for prompt in rows]
    with open_generator(config.judge, judge_model) as generator:
        judgements = ask(generator, CATEGORY, parts, config, label="classify_prompts")
        judge = f"{judge_name(generator, config, run.inputs['judge_model'])} / {CATEGORY.id}"
    labelled = [label(p, j, judge) for p, j in zip(rows, judgements, strict=True)]
    found = gold_agreement(labelled, seed=config.seed)
    metrics = summarise(labelled, judgements, found)
    write_dataset(
        run,
        labelled_prompts,
        LabelledPrompt,
        labelled,
        counts=Counts(read=len(rows), kept=len(labelled)),
        extra_files={
            "metrics.json": json.dumps(metrics, indent=2),
            "agreement.json": json.dumps(agreement_table(found), indent=2),
        },
    )
    return metrics


def label(prompt: Prompt, judgement: Judgement, judge: str) -> LabelledPrompt:
    """The prompt with what the judge made of it."""
    return LabelledPrompt(
        **dict(prompt),
        category=judgement.label,
        rationale=judgement.rationale,
        confidence=judgement.confidence,
        votes=judgement.votes,
        status="unscored" if judgement.label is None else "scored",
        error=judgement.error,
        judge=judge,
    )


def gold_agreement(labelled: Sequence[LabelledPrompt], *, seed: int) -> Agreement | None:
    """Agreement with the gold labels over the scored prompts that have one; None without any."""
    pairs = [(p.category, p.gold_category) for p in labelled if p.category and p.gold_category]
    if not pairs:
        return None
    given, gold = zip(*pairs, strict=True)
    return agreement(given, gold, classes=CATEGORIES, seed=seed)


def agreement_table(found: Agreement | None) -> dict[str, object]:
    """What agreement.json holds: gold labels in rows, the judge's in columns."""
    return {
        "labels": list(CATEGORIES),
        "matrix": [list(row) for row in found.matrix] if found else None,
        "majority_accuracy": found.majority_accuracy if found else None,
    }


def summarise(
    labelled: Sequence[LabelledPrompt],
    judgements: Sequence[Judgement],
    found: Agreement | None,
) -> Metrics:
    """Scalars: counts, shares per category, agreement with gold.

    `num_gold` counts prompts with a gold label; `num_gold_scored` those of them that enter
    accuracy, kappa and macro-F1.
    """
    categories = Counter(prompt.category for prompt in labelled)
    num_scored = len(labelled) - categories[None]
    metrics: Metrics = {
        **(found.scalars() if found else {}),
        "num_prompts": len(labelled),
        "num_scored": num_scored,
        "num_unscored": categories[None],
        "unscored_share": categories[None] / len(labelled) if labelled else 0.0,
        "num_gold": sum(prompt.gold_category is not None for prompt in labelled),
        "num_gold_scored": found.num if found else 0,
        "num_cut": sum(judgement.was_cut for judgement in judgements),
    }
    for category in CATEGORIES:
        metrics[f"share_{category}"] = categories[category] / num_scored if num_scored else 0.0
    return metrics


if __name__ == "__main__":
    raise SystemExit(stage_main(classify_prompts, ClassifyPromptsConfig))
