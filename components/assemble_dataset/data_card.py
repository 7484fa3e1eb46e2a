"""The data card as assemble_dataset begins it: what it was given, dropped, chose and split.

counts and parts -> the figures of the card; `equilibrate_core.data_card` makes its pages.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from components.assemble_dataset.prompts import PromptVerdicts
from equilibrate_core.artifacts import Counts, read_manifest
from equilibrate_core.data_card import counted, part_figures

IMPORT_COUNTS = "import_counts.json"
"""Where classify_prompts hands on what became of the rows that its prompts were read from."""


def summarise(
    counts: Counts,
    parts: Mapping[str, pl.DataFrame],
    shortage: Mapping[str, int],
    prompts: PromptVerdicts,
    inputs: Mapping[str, Any],
    selection: str,
) -> dict[str, Any]:
    """Figures of the data card, JSON-ready; `inputs` is what `told_by_inputs` found."""
    sources = {s for part in parts.values() for s in part["source"].unique()}
    licences = inputs["licences"]
    return {
        "selection": selection,
        "imported": inputs["imported"],
        "pairs_read": counts.read,
        "pairs_kept": counts.kept,
        "pairs_dropped": dict(sorted(counts.dropped.items())),
        "prompts": prompts.numbers,
        "contamination": prompts.contamination,
        "shortage": dict(shortage),
        "licences": {s: licences.get(s, "unknown") for s in sorted(sources | licences.keys())},
        "parts": {name: part_figures(pairs) for name, pairs in parts.items()},
    }


def told_by_inputs(labelled_prompts: Path, pairs: Path) -> dict[str, Any]:
    """What import_data stored about what it read: rows by what became of them, and licences."""
    imported: dict[str, dict[str, int]] = {}
    handed_on = labelled_prompts / IMPORT_COUNTS
    if handed_on.is_file():
        imported["prompts"] = counted(Counts.model_validate_json(handed_on.read_bytes()))
    if (counts := read_manifest(pairs).counts) is not None:
        imported["pairs"] = counted(counts)
    return {"imported": imported, "licences": _licences(pairs)}


def _licences(pairs: Path) -> dict[str, str]:
    """Licence of every source, as import_data stored it beside the pairs."""
    path = pairs / "sources.json"
    if not path.is_file():
        return {}
    return {name: source["licence"] for name, source in json.loads(path.read_text()).items()}
