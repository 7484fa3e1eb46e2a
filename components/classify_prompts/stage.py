"""classify_prompts: a judge sorts every prompt into EHD, IHD, MHD or NONE.

prompts -> labelled_prompts with metrics.json, import_counts.json (what became of the rows that the
prompts were read from, for the data card) and, where there are gold labels, agreement.json.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.classify_prompts.config import ClassifyPromptsConfig
from components.classify_prompts.panel import ask_panel, label, resolved_judges, settled_judges
from equilibrate_core.agreement import Agreement, agreement
from equilibrate_core.artifacts import Counts, StageRun, read_manifest
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.likeness.prompt_groups import conversations, groups_by_id
from equilibrate_core.records import CATEGORIES, LabelledPrompt, Prompt
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import read_dataset, write_dataset

IMPORT_COUNTS = "import_counts.json"
"""What import_data counted beside the prompts; assemble_dataset reads it for the data card."""


def classify_prompts(
    config: ClassifyPromptsConfig, *, prompts: Path, judge_model: Path, labelled_prompts: Path
) -> Metrics:
    """Sort every prompt into EHD, IHD, MHD or NONE and measure agreement with gold labels."""
    run = start_stage("classify_prompts", config, prompts=prompts, judge_model=judge_model)
    rows = read_dataset(prompts, Prompt)
    if config.asks_judges:
        config = settled_judges(config)
        run = replace(run, resolved=resolved_judges(config))
    with Ledger.beside(labelled_prompts, config.progress_dir, run.inputs) as ledger:
        if config.judge.kind == "classifier":
            from components.classify_prompts.learned import learn_and_label

            result = learn_and_label(config, rows, judge_model, run.inputs["judge_model"], ledger)
            labelled, measured, num_cut = result.labelled, result.held_out, result.num_cut
            extra: Metrics = {"num_seed": sum(result.seed_counts.values())}
            extra |= {f"num_seed_{category}": n for category, n in result.seed_counts.items()}
            timing: Metrics = {"training_s": result.training_s}
            num_failed_votes = result.num_failed_votes
        else:
            panel = ask_panel(config, rows, judge_model, run.inputs["judge_model"], ledger)
            labelled = [
                label(prompt, judgement, panel.judge)
                for prompt, judgement in zip(rows, panel.judgements, strict=True)
            ]
            measured, num_cut = labelled, sum(j.was_cut for j in panel.judgements)
            extra, timing = {}, {}
            num_failed_votes = sum(j.num_failed_votes for j in panel.judgements)
        found = gold_agreement(measured, seed=config.seed)
        missed = sum(p.gold_category is not None and p.category is None for p in measured)
        extra |= {"num_gold_unscored": missed, "num_failed_votes": num_failed_votes}
        metrics = {**summarise(labelled, num_cut, found), **extra}
        _write(run, labelled_prompts, labelled, metrics, found, read_manifest(prompts).counts)
        ledger.discard()
    # The clock stays out of the artifact: equal labels must have an equal digest.
    return metrics | timing


def gold_agreement(labelled: Sequence[LabelledPrompt], *, seed: int) -> Agreement | None:
    """Agreement with the gold labels over the scored prompts that have one; None without any.

    Intervals are over groups: near-duplicate questions are no independent evidence.
    """
    rows = [(p, p.category, p.gold_category) for p in labelled if p.category and p.gold_category]
    if not rows:
        return None
    group = groups_by_id(conversations((p.id, p.messages) for p, _, _ in rows))
    given, gold = [c for _, c, _ in rows], [c for _, _, c in rows]
    groups = [group[p.id] for p, _, _ in rows]
    return agreement(given, gold, classes=CATEGORIES, groups=groups, seed=seed)


def agreement_table(found: Agreement | None) -> dict[str, object]:
    """What agreement.json holds: gold labels in rows, the judge's in columns."""
    return {
        "labels": list(CATEGORIES),
        "matrix": [list(row) for row in found.matrix] if found else None,
        "majority_accuracy": found.majority_accuracy if found else None,
    }


def summarise(
    labelled: Sequence[LabelledPrompt],
    num_cut: int,
    found: Agreement | None,
) -> Metrics:
    """Scalars: counts, shares per category, agreement with gold.

    `num_gold` counts prompts with a gold label; `num_gold_scored` those of them that enter
    accuracy, kappa and macro-F1. The stage adds `num_gold_unscored`, those that would have entered
    if the judge had given a verdict.
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
        "num_cut": num_cut,
    }
    for category in CATEGORIES:
        metrics[f"share_{category}"] = categories[category] / num_scored if num_scored else 0.0
    return metrics


def _write(
    run: StageRun,
    destination: Path,
    labelled: Sequence[LabelledPrompt],
    metrics: Metrics,
    found: Agreement | None,
    imported: Counts | None,
) -> None:
    extra = {
        "metrics.json": json.dumps(metrics, indent=2),
        "agreement.json": json.dumps(agreement_table(found), indent=2),
    }
    if imported is not None:
        extra[IMPORT_COUNTS] = imported.model_dump_json(indent=2)
    counts = Counts(read=len(labelled), kept=len(labelled))
    write_dataset(run, destination, LabelledPrompt, labelled, counts=counts, extra_files=extra)


if __name__ == "__main__":
    raise SystemExit(stage_main(classify_prompts, ClassifyPromptsConfig))
