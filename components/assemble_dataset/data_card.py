"""The data card: what went in, what became of it, what the model will learn from.

counts and parts -> a JSON summary and a Markdown page; `data_card_page` makes the HTML page.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from components.assemble_dataset.prompts import PromptVerdicts
from equilibrate_core.artifacts import Counts
from equilibrate_core.likeness.contamination import KINDS
from equilibrate_core.records import Pair

LENGTHS = ("prompt_chars", "chosen_chars", "rejected_chars")
INTRODUCTION = (
    "What assemble_dataset read, what it left out and why, and what is in its three outputs. "
    "Lengths are in characters; a prompt's script says which languages it may be in."
)
_ESCAPED = str.maketrans({c: "\\" + c for c in "\\|`*["} | {"<": "&lt;", ">": "&gt;"})
Card = Mapping[str, Any]
Cells = Sequence[Any]


def summarise(
    counts: Counts,
    parts: Mapping[str, pl.DataFrame],
    shortage: Mapping[str, int],
    prompts: PromptVerdicts,
    licences: Mapping[str, str],
    selection: str,
) -> dict[str, Any]:
    """Figures of the data card, JSON-ready."""
    sources = sorted({s for part in parts.values() for s in part["source"].unique()})
    return {
        "selection": selection,
        "pairs_read": counts.read,
        "pairs_kept": counts.kept,
        "pairs_dropped": dict(sorted(counts.dropped.items())),
        "prompts": prompts.numbers,
        "contamination": prompts.contamination,
        "shortage": dict(shortage),
        "licences": {source: licences.get(source, "unknown") for source in sources},
        "parts": {name: _part(pairs) for name, pairs in parts.items()},
    }


def sections(card: Card) -> list[tuple[str, Cells, list[Cells]]]:
    """Title, header and rows of every table of the card, for both of its pages."""
    found: list[tuple[str, Cells, list[Cells]]] = [
        ("What became of the pairs", ("step", "pairs"), _steps(card)),
        ("What became of the prompts", ("prompts", "number"), _words(card["prompts"])),
    ]
    rows = [
        (suite, *(row.get(k, 0) for k in KINDS)) for suite, row in card["contamination"].items()
    ]
    header = ("suite", *(kind.replace("_", " ") for kind in KINDS))
    found.append(("Contamination found, by evaluation suite and rule", header, rows))
    shortage = [(category, n) for category, n in card["shortage"].items() if n]
    found.append(("Shortage against the quotas", ("category", "missing"), shortage))
    found.append(("Licences", ("source", "licence"), list(card["licences"].items())))
    for name, part in card["parts"].items():
        found.append((name, ("figure", "value"), _figures(part)))
        columns = sorted({s for row in part["category_by_source"].values() for s in row})
        table = [
            (category, *(row.get(s, 0) for s in columns), sum(row.values()))
            for category, row in part["category_by_source"].items()
        ]
        found.append((f"{name}: category by source", ("category", *columns, "all"), table))
    return found


def to_markdown(card: Card, examples: Sequence[Pair]) -> str:
    """The card as a Markdown page; examples are masked for good, the HTML page can show them."""
    lines = ["# Data card", "", INTRODUCTION, "", f"Selection: **{card['selection']}**.", ""]
    for title, header, rows in sections(card):
        lines += [f"## {title}", "", *(_table(header, rows) if rows else ["None."]), ""]
    if examples:
        shown = [
            (p.category, p.source, *(masked(t) for t in (p.messages[-1].content, p.chosen)))
            for p in examples
        ]
        lines += ["## Examples (masked)", ""]
        lines += [*_table(("category", "source", "prompt", "chosen"), shown), ""]
    return "\n".join(lines)


def masked(text: str, limit: int = 120) -> str:
    """The start of a text with every letter and digit but the words' first hidden."""
    return re.sub(r"(?<=\w)\w", "•", " ".join(text.split())[:limit])


def _part(pairs: pl.DataFrame) -> dict[str, Any]:
    table: dict[str, dict[str, int]] = {}
    cells = pairs.group_by("category", "source").len().sort("category", "source", nulls_last=True)
    for category, source, number in cells.iter_rows():
        table.setdefault(category or "unlabelled", {})[source] = number
    languages = dict(pairs.group_by("language").len().sort("language").iter_rows())
    return {
        "pairs": len(pairs),
        "prompts": pairs["prompt_id"].n_unique(),
        "dimensions": dict(pairs.group_by("dimension").len().sort("dimension").iter_rows()),
        "languages": languages,
        "characters": {name.removesuffix("_chars"): _lengths(pairs[name]) for name in LENGTHS},
        "category_by_source": table,
    }


def _lengths(values: pl.Series) -> dict[str, float]:
    shares = {"median": 0.5, "90 %": 0.9, "longest": 1.0}
    found = {name: values.quantile(share, "nearest") for name, share in shares.items()}
    return {name: float(value or 0) for name, value in found.items()}


def _steps(card: Card) -> list[Cells]:
    dropped = _words(card["pairs_dropped"], "dropped: ")
    parts = [(f"kept in {name}", part["pairs"]) for name, part in card["parts"].items()]
    return [("read", card["pairs_read"]), *dropped, *parts]


def _figures(part: Card) -> list[Cells]:
    rows = _words({name: part[name] for name in ("pairs", "prompts")})
    rows += _words(part["dimensions"], "dimension: ") + _words(part["languages"], "script: ")
    for name, figures in part["characters"].items():
        rows += _words({key: f"{value:,.0f}" for key, value in figures.items()}, f"{name} length, ")
    return rows


def _words(values: Card, prefix: str = "") -> list[Cells]:
    return [(prefix + name.replace("_", " "), value) for name, value in values.items()]


def _table(header: Cells, rows: Iterable[Cells]) -> list[str]:
    lines = [_line(header), "|" + "---|" * len(header)]
    return lines + [_line(row) for row in rows]


def _line(cells: Cells) -> str:
    shown = (str(cell).translate(_ESCAPED) for cell in cells)
    return "| " + " | ".join(shown) + " |"
