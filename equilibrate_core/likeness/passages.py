"""Which texts hold others word for word, from word boundary to word boundary.

normalised texts and patterns of one part or several -> places of a text and of a pattern in it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import polars as pl

from equilibrate_core.likeness.normalising import DENSE

ANCHOR_CHARS = 24
"""Texts are searched for by pieces of them: an automaton of 48,000 whole benchmark questions takes
7 s and 0.6 GB, one of their beginnings half a second."""


def standing_in(texts: pl.Series, patterns: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """Every place of a text with that of a pattern all of whose parts stand in it."""
    by_anchor = _by_anchor(patterns)
    if not by_anchor:
        return
    anchors = pl.Series(list(by_anchor), dtype=pl.String).implode()
    frame = texts.alias("text").to_frame().with_row_index("i")
    suspects = frame.filter(pl.col("text").str.contains_any(anchors)).with_columns(
        pl.col("text").str.extract_many(anchors, overlapping=True).list.unique().alias("met")
    )
    for i, text, met in suspects.iter_rows():
        for number in sorted(number for anchor in met for number in by_anchor[anchor]):
            if all(_stands_in(part, text) for part in patterns[number]):
                yield i, number


def _by_anchor(patterns: Sequence[tuple[str, ...]]) -> dict[str, list[int]]:
    """The patterns by the beginning of their longest part, or its end where fewer end like that.

    Prompts behind one instruction all begin alike; each would be held against every other.
    """
    longest = {number: max(parts, key=len) for number, parts in enumerate(patterns) if parts}
    heads = Counter(part[:ANCHOR_CHARS] for part in longest.values())
    tails = Counter(part[-ANCHOR_CHARS:] for part in longest.values())
    by_anchor: defaultdict[str, list[int]] = defaultdict(list)
    for number, part in longest.items():
        head, tail = part[:ANCHOR_CHARS], part[-ANCHOR_CHARS:]
        by_anchor[head if heads[head] <= tails[tail] else tail].append(number)
    return dict(by_anchor)


def _stands_in(part: str, text: str) -> bool:
    """Whether a part stands in a text as words; characters of dense scripts are words."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        begins = start == 0 or text[start - 1] == " " or DENSE.match(part)
        if begins and (end == len(text) or text[end] == " " or DENSE.match(part[-1])):
            return True
        start = text.find(part, start + 1)
    return False
