"""The data card of all pairs that are trained on: what assemble_dataset wrote, continued.

assembled and built pairs, and what became of the prompts that were answered -> the card's files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from equilibrate_core.artifacts import read_manifest
from equilibrate_core.data_card import FILE, part_figures, to_markdown
from equilibrate_core.data_card_page import to_html
from equilibrate_core.languages import scripts, told_languages
from equilibrate_core.records import Pair

BUILT, ALL = "built_pairs", "all_train_pairs"


def continued_card(
    train_pairs: Path,
    labelled_prompts: Path,
    known: Sequence[Pair],
    built: Sequence[Pair],
    numbers: Mapping[str, int],
) -> dict[str, str]:
    """Texts of data_card.json, .md and .html, by name, for the assembled and the built pairs."""
    card = json.loads((train_pairs / FILE).read_text(encoding="utf-8"))
    languages = told_languages(labelled_prompts)
    sets = {BUILT: built, ALL: [*known, *built]}
    card["build_pairs"] = {**numbers, "pairs_built": len(built), "pairs_in_all": len(sets[ALL])}
    card["parts"] |= {name: part_figures(_frame(rows, languages)) for name, rows in sets.items()}
    for source in sorted({pair.source for pair in built}):
        card["licences"].setdefault(source, "unknown")
    # Whoever wanted no examples there wants none here.
    shown = read_manifest(train_pairs).config["examples_per_category"]
    examples = _examples(sets[ALL], shown)
    return {
        FILE: json.dumps(card, indent=2),
        "data_card.md": to_markdown(card, examples),
        "data_card.html": to_html(card, examples),
    }


def _examples(pairs: Sequence[Pair], per_category: int) -> list[Pair]:
    """The first few pairs of each category, by id."""
    by_category: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.id):
        by_category.setdefault(pair.category or "", []).append(pair)
    return [pair for c in sorted(by_category) if c for pair in by_category[c][:per_category]]


def _frame(pairs: Sequence[Pair], languages: pl.DataFrame) -> pl.DataFrame:
    """The pairs as `part_figures` takes them."""
    columns = {
        "prompt_id": [pair.prompt_id for pair in pairs],
        "source": [pair.source for pair in pairs],
        "category": [pair.category for pair in pairs],
        "dimension": [pair.dimension for pair in pairs],
        "last": [pair.messages[-1].content for pair in pairs],
        "chosen": [pair.chosen for pair in pairs],
        "rejected": [pair.rejected for pair in pairs],
    }
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return frame.join(languages, on="prompt_id", how="left").with_columns(
        scripts(frame["last"]).alias("script"),
        prompt_chars=pl.col("last").str.len_chars(),
        chosen_chars=pl.col("chosen").str.len_chars(),
        rejected_chars=pl.col("rejected").str.len_chars(),
    )
