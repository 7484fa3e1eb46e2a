"""FDC: assemble what the scorers, the policy and the held-out evaluation see.

labelled prompts + pairs -> scorer_pairs, train_pairs, eval_pairs, data card. The three share no
prompt, and none of them holds an evaluation prompt or anything like one.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from components.assemble_dataset.config import AssembleDatasetConfig
from components.assemble_dataset.data_card import summarise, told_by_inputs
from components.assemble_dataset.pairs import read_examples, read_pairs, write_parts
from components.assemble_dataset.prompts import judge_prompts
from components.assemble_dataset.selection import (
    each_once,
    fill_quotas,
    in_one_order,
    split_prompts,
)
from equilibrate_core.artifacts import Counts, write_text
from equilibrate_core.data_card import FILE, to_markdown
from equilibrate_core.data_card_page import to_html
from equilibrate_core.errors import DataError, StageError
from equilibrate_core.languages import told_languages
from equilibrate_core.likeness.prompt_groups import too_like
from equilibrate_core.stage import Metrics, stage_main, start_stage

LIKE_LEARNED = "like_training_prompt"
"""As train_scorer calls it."""


def assemble_dataset(
    config: AssembleDatasetConfig,
    *,
    labelled_prompts: Path,
    pairs: Path,
    scorer_pairs: Path,
    train_pairs: Path,
    eval_pairs: Path,
    data_card: Path,
    data_card_html: Path | None = None,
) -> Metrics:
    """Choose pairs by category quotas and split them by prompt."""
    run = start_stage("assemble_dataset", config, labelled_prompts=labelled_prompts, pairs=pairs)
    counts = Counts()
    languages = told_languages(labelled_prompts)
    rows = read_pairs(pairs).join(languages, on="prompt_id", how="left")
    prompts = judge_prompts(labelled_prompts, config, rows["prompt_id"].unique())
    parts = _split(config, each_once(_usable(rows, prompts.frame, counts), counts), counts)
    parts["train_pairs"], shortage = fill_quotas(parts["train_pairs"], config, counts)
    parts["eval_pairs"] = _unlike_learned(parts, prompts.usable, counts)
    counts.kept = sum(len(part) for part in parts.values())
    counts.check()
    free, num_held_back = _free_prompts(prompts.frame, rows, parts)
    _check(config, parts, shortage, counts)
    told = told_by_inputs(labelled_prompts, pairs)
    card = summarise(counts, parts, shortage, prompts, told, config.selection)
    examples = read_examples(pairs, parts["train_pairs"], config.examples_per_category)
    page = to_html(card, examples)
    metrics: Metrics = {f"num_{name}": len(part) for name, part in parts.items()}
    metrics |= {f"shortage_{category}": missing for category, missing in shortage.items()}
    metrics |= {f"prompts_{name}": number for name, number in prompts.numbers.items()}
    metrics |= {"num_free_prompts": len(free), "num_free_prompts_like_held_out": num_held_back}
    extra = {
        FILE: json.dumps(card, indent=2),
        "data_card.html": page,
        "free_prompts.csv": free.write_csv(),
        "metrics.json": json.dumps(metrics),
    }
    write_parts(
        run,
        pairs,
        {"scorer_pairs": scorer_pairs, "train_pairs": train_pairs, "eval_pairs": eval_pairs},
        parts,
        {name: _own_counts(name, parts, counts) for name in parts},
        {"train_pairs": extra},
    )
    write_text(data_card, to_markdown(card, examples))
    if data_card_html is not None:
        write_text(data_card_html, page)
    return metrics


def _usable(rows: pl.DataFrame, prompts: pl.DataFrame, counts: Counts) -> pl.DataFrame:
    """Pairs of usable prompts, each with its prompt's category."""
    verdicts = prompts.rename({"id": "prompt_id"}).with_columns(known=True)
    joined = rows.join(verdicts, on="prompt_id", how="left").with_columns(
        reason=pl.when(pl.col("known").is_null())
        .then(pl.lit("prompt_not_labelled"))
        .otherwise("reason")
    )
    counts.read = len(rows)
    left_out = joined.filter(pl.col("reason").is_not_null())
    for reason, number in left_out.group_by("reason").len().sort("reason").iter_rows():
        counts.drop(reason, number)
    return joined.filter(pl.col("reason").is_null()).drop("reason", "known")


def _free_prompts(
    prompts: pl.DataFrame, rows: pl.DataFrame, parts: Mapping[str, pl.DataFrame]
) -> tuple[pl.DataFrame, int]:
    """Usable prompts without any pair, which build_pairs may answer, and how many are held back.

    Those of a group of scorer_pairs or eval_pairs are: the policy would learn answers to what they
    hold out.
    """
    usable = prompts.filter(pl.col("reason").is_null(), pl.col("category").is_not_null())
    without = usable.join(rows, left_on="id", right_on="prompt_id", how="anti")
    held = pl.concat([parts[name].select("group") for name in ("scorer_pairs", "eval_pairs")])
    free = without.join(held, on="group", how="anti")
    return free.select("id", "category").sort("id"), len(without) - len(free)


def _split(
    config: AssembleDatasetConfig, pairs: pl.DataFrame, counts: Counts
) -> dict[str, pl.DataFrame]:
    placed = pairs.join(split_prompts(pairs, config), on="prompt_id").sort("id")
    parts = {
        name: placed.filter(pl.col("part") == name).drop("part")
        for name in ("scorer", "train", "eval")
    }
    # A scorer learns each dimension by itself and may see both orders; a policy cannot.
    return {
        "scorer_pairs": parts["scorer"],
        "train_pairs": in_one_order(parts["train"], counts).sort("id"),
        "eval_pairs": in_one_order(parts["eval"], counts).sort("id"),
    }


def _unlike_learned(
    parts: Mapping[str, pl.DataFrame], prompts: pl.DataFrame, counts: Counts
) -> pl.DataFrame:
    """The pairs of eval_pairs whose prompts are unlike all of the other parts.

    Groups leave the ends of chains, and prompts that hold another one word for word.
    """
    held_out = parts["eval_pairs"]
    learned = pl.concat([parts[name]["prompt_id"] for name in ("scorer_pairs", "train_pairs")])
    alike = too_like(prompts, set(held_out["prompt_id"]), set(learned))
    kept = held_out.filter(~pl.col("prompt_id").is_in(sorted(alike)))
    if len(kept) < len(held_out):
        counts.drop(LIKE_LEARNED, len(held_out) - len(kept))
    return kept


def _check(
    config: AssembleDatasetConfig,
    parts: Mapping[str, pl.DataFrame],
    shortage: Mapping[str, int],
    counts: Counts,
) -> None:
    missing = {category: number for category, number in shortage.items() if number}
    if config.strict_quotas and missing:
        found = parts["train_pairs"]["category"].value_counts()
        there = {c: n for c, n in sorted(found.iter_rows()) if c in missing}
        raise StageError(
            f"assemble_dataset: quotas cannot be filled, missing {missing} (there are "
            f"{there or 'none'}); give more data, lower the quotas or set strict_quotas: false"
        )
    for name, part in parts.items():
        if not len(part):
            raise DataError(
                f"assemble_dataset: {name} is empty; of {counts.read} pairs {counts.dropped} were "
                "dropped: give more pairs or change quotas and shares"
            )


def _own_counts(name: str, parts: Mapping[str, pl.DataFrame], counts: Counts) -> Counts:
    elsewhere = {f"in_{other}": len(part) for other, part in parts.items() if other != name}
    return Counts(read=counts.read, kept=len(parts[name]), dropped=counts.dropped | elsewhere)


if __name__ == "__main__":
    raise SystemExit(stage_main(assemble_dataset, AssembleDatasetConfig))
