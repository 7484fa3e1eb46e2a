"""The data card: what went in, what became of it, what the model will learn from.

counts and pairs -> a JSON summary and a Markdown page.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from equilibrate_core.artifacts import Counts
from equilibrate_core.records import Pair

_CJK = re.compile(r"[\u3400-\u9fff]")


def summarise(
    counts: Counts,
    parts: Mapping[str, Sequence[Pair]],
    shortage: Mapping[str, int],
    prompts: Mapping[str, int],
    selection: str,
) -> dict[str, Any]:
    """Figures of the data card, JSON-ready."""
    return {
        "selection": selection,
        "pairs_read": counts.read,
        "pairs_kept": counts.kept,
        "pairs_dropped": dict(sorted(counts.dropped.items())),
        "prompts": dict(prompts),
        "shortage": dict(shortage),
        "parts": {name: _part(pairs) for name, pairs in parts.items()},
    }


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card as a Markdown page."""
    lines = ["# Data card", "", f"Selection: **{card['selection']}**. Counts are pairs.", ""]
    lines += ["## What became of the pairs", "", *_table(("step", "pairs"), _steps(card)), ""]
    lines += ["## Prompts", "", *_table(("prompts", "number"), card["prompts"].items()), ""]
    shortage = [(c, n) for c, n in card["shortage"].items() if n]
    if shortage:
        lines += ["## Shortage against the quotas", "", *_table(("category", "missing"), shortage)]
        lines.append("")
    for name, part in card["parts"].items():
        lines += [f"## {name}", "", *_table(("figure", "value"), _figures(part)), ""]
        sources = sorted({s for row in part["category_by_source"].values() for s in row})
        rows = [
            (category, *(row.get(s, 0) for s in sources))
            for category, row in part["category_by_source"].items()
        ]
        lines += [*_table(("category", *sources), rows), ""]
    return "\n".join(lines)


def _part(pairs: Sequence[Pair]) -> dict[str, Any]:
    table: dict[str, Counter[str]] = {}
    for pair in pairs:
        table.setdefault(pair.category or "unlabelled", Counter())[pair.source] += 1
    chinese = sum(1 for p in pairs if _CJK.search(p.messages[-1].content))
    return {
        "pairs": len(pairs),
        "prompts": len({p.prompt_id for p in pairs}),
        "dimensions": dict(sorted(Counter(p.dimension for p in pairs).items())),
        "languages": {"zh": chinese, "other": len(pairs) - chinese},
        "median_chosen_characters": median(len(p.chosen) for p in pairs) if pairs else 0,
        "median_rejected_characters": median(len(p.rejected) for p in pairs) if pairs else 0,
        "category_by_source": {c: dict(sorted(row.items())) for c, row in sorted(table.items())},
    }


def _steps(card: Mapping[str, Any]) -> list[tuple[str, int]]:
    dropped = [(f"dropped: {reason}", n) for reason, n in card["pairs_dropped"].items()]
    parts = [(f"kept in {name}", part["pairs"]) for name, part in card["parts"].items()]
    return [("read", card["pairs_read"]), *dropped, *parts]


def _figures(part: Mapping[str, Any]) -> list[tuple[str, Any]]:
    simple = ("pairs", "prompts", "median_chosen_characters", "median_rejected_characters")
    nested = [(f"{k}: {n}", v) for k in ("dimensions", "languages") for n, v in part[k].items()]
    return [(name.replace("_", " "), part[name]) for name in simple] + nested


def _table(header: Sequence[str], rows: Any) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
