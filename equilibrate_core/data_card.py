"""The data card: what went in, what became of it, what the model will learn from.

figures and pairs -> tables and a Markdown page; `data_card_page` makes the HTML page. The card is
begun by assemble_dataset and, where there is one, continued by build_pairs.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from equilibrate_core.artifacts import Counts
from equilibrate_core.likeness.contamination import KINDS
from equilibrate_core.records import Pair

FILE = "data_card.json"
ASSEMBLED = ("scorer_pairs", "train_pairs", "eval_pairs")
LENGTHS = ("prompt_chars", "chosen_chars", "rejected_chars")
INTRODUCTION = (
    "What was read, what was left out and why, and what is in every set of pairs. Lengths are in "
    "characters. Language is what a prompt's source says; where it says none, script is the one "
    "that most of the prompt's letters are of, which several languages share."
)
_ESCAPED = str.maketrans({c: "\\" + c for c in "\\|`*["} | {"<": "&lt;", ">": "&gt;"})
JOINERS = "\u200b\u200c\u200d"
"""Characters without width inside a word; marks (vowels of Hindi or Thai) stand there, too."""
Card = Mapping[str, Any]
Cells = Sequence[Any]
Section = tuple[str, Cells, Sequence[Cells]]
"""Title, header and rows of one table."""


def sections(card: Card) -> list[Section]:
    """Every table of the card, for both of its pages."""
    found: list[Section] = [
        _imported(card),
        ("What became of the pairs", ("step", "pairs"), _steps(card)),
        ("What became of the prompts", ("prompts", "number"), _words(card["prompts"])),
    ]
    if "build_pairs" in card:
        rows = _words(card["build_pairs"])
        found.append(("What build_pairs added to train_pairs", ("step", "number"), rows))
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
    """The start of a text with every letter, mark and digit but the words' first hidden."""
    shown: list[str] = []
    is_inside = False
    for character in " ".join(text.split())[:limit]:
        goes_on = unicodedata.category(character)[0] == "M" or character in JOINERS
        is_hidden = is_inside and (goes_on or _is_of_a_word(character))
        shown.append("•" if is_hidden else character)
        is_inside = is_hidden or _is_of_a_word(character)
    return "".join(shown)


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def counted(counts: Counts) -> dict[str, int]:
    """What became of the rows of an artifact, in one level."""
    dropped = {f"dropped: {reason}": number for reason, number in sorted(counts.dropped.items())}
    return {"read": counts.read, "quarantined": counts.quarantined, **dropped, "kept": counts.kept}


def part_figures(pairs: pl.DataFrame) -> dict[str, Any]:
    """Figures of a set of pairs.

    Its frame has a row for each, with prompt_id, source, category, dimension, language (null where
    the source says none), script and LENGTHS.
    """
    table: dict[str, dict[str, int]] = {}
    cells = pairs.group_by("category", "source").len().sort("category", "source", nulls_last=True)
    for category, source, number in cells.iter_rows():
        table.setdefault(category or "unlabelled", {})[source] = number
    told = pl.format("language: {}", "language")
    written = pairs.select(pl.coalesce(told, pl.format("script: {}", "script")).alias("as"))
    return {
        "pairs": len(pairs),
        "prompts": pairs["prompt_id"].n_unique(),
        "dimensions": dict(pairs.group_by("dimension").len().sort("dimension").iter_rows()),
        "languages": dict(written.group_by("as").len().sort("as").iter_rows()),
        "characters": {name.removesuffix("_chars"): _lengths(pairs[name]) for name in LENGTHS},
        "category_by_source": table,
    }


def _lengths(values: pl.Series) -> dict[str, float]:
    shares = {"median": 0.5, "90 %": 0.9, "longest": 1.0}
    found = {name: values.quantile(share, "nearest") for name, share in shares.items()}
    return {name: float(value or 0) for name, value in found.items()}


def _imported(card: Card) -> Section:
    """What import_data read and left out, prompts beside pairs."""
    imported: Mapping[str, Mapping[str, int]] = card.get("imported", {})
    seen = dict.fromkeys(step for counts in imported.values() for step in counts)
    steps = sorted(seen, key=lambda step: (step == "kept", list(seen).index(step)))
    rows = [
        (step.replace("_", " "), *(counts.get(step, 0) for counts in imported.values()))
        for step in steps
    ]
    return "What import_data read and left out", ("step", *imported), rows


def _steps(card: Card) -> list[Cells]:
    dropped = _words(card["pairs_dropped"], "dropped: ")
    parts = [(f"kept in {name}", card["parts"][name]["pairs"]) for name in ASSEMBLED]
    return [("read", card["pairs_read"]), *dropped, *parts]


def _figures(part: Card) -> list[Cells]:
    rows = _words({name: part[name] for name in ("pairs", "prompts")})
    rows += _words(part["dimensions"], "dimension: ") + _words(part["languages"])
    for name, figures in part["characters"].items():
        rows += _words({key: f"{value:,.0f}" for key, value in figures.items()}, f"{name} length, ")
    return rows


def _words(values: Card, prefix: str = "") -> list[Cells]:
    return [(prefix + name.replace("_", " "), value) for name, value in values.items()]


def _table(header: Cells, rows: Iterable[Cells]) -> list[str]:
    lines = [_line(header), "|" + "---|" * len(header)]
    return lines + [_line(row) for row in rows]


def _line(cells: Cells) -> str:
    shown = (" ".join(str(cell).split()).translate(_ESCAPED) for cell in cells)
    return "| " + " | ".join(shown) + " |"
