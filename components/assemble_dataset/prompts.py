"""Which prompts may be used: one row per prompt, with its category or the reason it is left out.

labelled prompts -> id, category, reason. Independent of the order of the rows:
- Prompts whose normalised texts are equal share one label: the commonest among them, under
  `gold_else_judge` among the gold ones if any has one; a tie leaves them unlabelled, so that they
  fill no quota. Conflicts are counted.
- Prompts equal to, containing or like an evaluation prompt, a part of one or a benchmark's question
  go (`contaminated`; the rules are in `contamination`), and so do conversations any of whose user
  turns is.
- Of near-duplicates one stays: one with pairs before one without, a labelled one before an
  unlabelled one, under `gold_else_judge` one with a gold label before one with a judge's, then the
  smallest id. It keeps its own label; differing labels are counted.
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from components.assemble_dataset.benchmark_questions import SCHEMA, benchmark_questions
from components.assemble_dataset.config import AssembleDatasetConfig
from components.assemble_dataset.decontamination import (
    CONTAMINATED,
    decontaminate,
    parts_of_evaluation,
)
from equilibrate_core.likeness.near_duplicates import near_duplicates
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.prompt_groups import COLUMNS, NEAR, group_of
from equilibrate_core.tables import dataset_files

EVALUATION = "evaluation_prompt"
NEAR_DUPLICATE = "near_duplicate_prompt"
LABELS = {
    "judge": pl.col("category"),
    "gold": pl.col("gold_category"),
    "gold_else_judge": pl.coalesce("gold_category", "category"),
}


@dataclass
class PromptVerdicts:
    """What became of the prompts."""

    frame: pl.DataFrame
    """id, category, reason (null for a prompt that may be used), group (of one that may)."""
    usable: pl.DataFrame
    """id, root and text of the prompts that may be used, as in a frame of `conversations`."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Prompts by what became of them, for the data card."""
    contamination: dict[str, dict[str, int]] = field(default_factory=dict)
    """Contaminated prompts by the suite they give away, and how."""


def judge_prompts(
    artifact: Path, config: AssembleDatasetConfig, ids_with_pairs: pl.Series
) -> PromptVerdicts:
    """Verdict on every prompt of a labelled_prompts artifact."""
    rows = _read(artifact, config)
    labelled, num_conflicts = _one_label_per_text(rows)
    # Any copy in a suite makes the prompt an evaluation prompt.
    prompts = labelled.sort("id", "suite", nulls_last=True).unique("id", keep="first")
    prompts = prompts.with_columns(has_pairs=pl.col("id").is_in(ids_with_pairs.implode()))
    evaluation = prompts.filter(pl.col("suite").is_not_null()).sort("suite", "id")
    training = prompts.filter(pl.col("suite").is_null()).sort(
        ~pl.col("has_pairs"), pl.col("category").is_null(), ~pl.col("outvotes"), "id"
    )
    benchmarks = benchmark_questions(config.benchmarks_uri)
    asked = evaluation.select("suite", "text", choices=pl.lit([], dtype=SCHEMA["choices"]))
    whole = pl.concat([asked, benchmarks])
    training, matches = decontaminate(training, whole, parts_of_evaluation(artifact), config)
    training, alike = _deduplicate(training, config)
    judged = pl.concat(
        [evaluation.with_columns(reason=pl.lit(EVALUATION)), training], how="diagonal"
    )
    usable = judged.filter(pl.col("reason").is_null()).select(COLUMNS)
    groups = group_of(
        usable,
        threshold=min(config.near_duplicate_jaccard, NEAR),
        deduplicated=config.near_duplicate_jaccard <= NEAR,
    )
    judged = judged.select("id", "category", "reason").join(groups, on="id", how="left")
    numbers = {
        "read": len(rows),
        "without_a_label": rows["category"].null_count(),
        "repeated_ids": len(rows) - len(prompts),
        "label_conflicts_among_equal_texts": num_conflicts,
        "benchmark_questions_compared": len(benchmarks),
        **{r: judged["reason"].eq(r).sum() for r in (EVALUATION, CONTAMINATED, NEAR_DUPLICATE)},
        **alike,
        "usable": judged["reason"].null_count(),
    }
    return PromptVerdicts(judged, usable, numbers, matches)


def _read(artifact: Path, config: AssembleDatasetConfig) -> pl.DataFrame:
    """What verdicts rest on.

    id, suite, category, whether that is gold and outvotes a judge, normalised text (the system's
    turns left out) and first user turn, and the user turns as they are where there is more to the
    text than one turn.
    """
    role, content = (pl.element().struct.field(name) for name in ("role", "content"))
    said, asked = pl.when(role != "system").then(content), pl.when(role == "user").then(content)
    parts, questions = (
        pl.col("messages").list.eval(what).list.drop_nulls() for what in (said, asked)
    )
    outvotes = pl.lit(config.label == "gold_else_judge") & pl.col("gold_category").is_not_null()
    rows = (
        pl.scan_parquet(dataset_files(artifact))
        .select(
            "id",
            "suite",
            LABELS[config.label].alias("category"),
            outvotes=outvotes,
            text=parts.list.join(" "),
            root=questions.list.first(),
            turns=pl.when(parts.list.len() > 1).then(questions),
        )
        .collect()
    )
    return rows.with_columns(normalised(rows["text"]), root=normalised(rows["root"].fill_null("")))


def _one_label_per_text(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The rows with the commonest label of their text, and the number of texts in conflict.

    A row whose label is that of gold copies `outvotes` as they do.
    """
    copies = rows.filter(pl.col("text").is_duplicated() & pl.col("category").is_not_null())
    may_vote = pl.col("outvotes") | ~pl.col("outvotes").any().over("text")
    votes = copies.group_by("text", "category").len()
    voters = copies.filter(may_vote).group_by("text", "category")
    counted = voters.agg(pl.len(), gold=pl.col("outvotes").any())
    best = counted.filter(pl.col("len") == pl.col("len").max().over("text"))
    agreed = best.group_by("text").agg(
        pl.when(pl.len() == 1).then(pl.col("category").first()).alias("agreed"),
        pl.col("gold").any(),
    )
    conflicts = votes.group_by("text").len().filter(pl.col("len") > 1)
    joined = rows.join(agreed.with_columns(voted=True), on="text", how="left")
    category = pl.when(pl.col("voted")).then("agreed").otherwise("category")
    outvotes = pl.when(pl.col("voted")).then("gold").otherwise("outvotes")
    settled = joined.with_columns(category.alias("category"), outvotes.alias("outvotes"))
    return settled.drop("agreed", "gold", "voted"), len(conflicts)


def _deduplicate(
    training: pl.DataFrame, config: AssembleDatasetConfig
) -> tuple[pl.DataFrame, dict[str, int]]:
    clean = training.filter(pl.col("reason").is_null())
    found = near_duplicates(clean["text"], threshold=config.near_duplicate_jaccard)
    goes = found.owner >= 0
    labels = clean["category"]
    others = labels.gather(found.owner[goes])
    differing = (labels.filter(pl.Series(goes)) != others).fill_null(False).sum()
    reason = pl.when(pl.lit(pl.Series(goes))).then(pl.lit(NEAR_DUPLICATE))
    rest = training.filter(pl.col("reason").is_not_null())
    numbers = {
        "near_duplicates_with_other_label": int(differing),
        "near_duplicate_searches_cut_short": found.num_cut_short,
    }
    return pl.concat([rest, clean.with_columns(reason=reason)]), numbers
