"""Which texts hold others word for word, from word boundary to word boundary.

normalised texts and patterns of one part or several -> places of a text and of a pattern in it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import polars as pl

from equilibrate_core.likeness.normalising import DENSE

HEAD_CHARS = 24
"""Texts are searched for by their beginnings: an automaton of 48,000 whole benchmark questions
takes 7 s and 0.6 GB, one of their beginnings half a second."""


def standing_in(texts: pl.Series, patterns: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """Every place of a text with that of a pattern all of whose parts stand in it."""
    by_head: defaultdict[str, list[int]] = defaultdict(list)
    for number, parts in enumerate(patterns):
        if parts:
            by_head[max(parts, key=len)[:HEAD_CHARS]].append(number)
    if not by_head:
        return
    heads = pl.Series(list(by_head), dtype=pl.String).implode()
    frame = texts.alias("text").to_frame().with_row_index("i")
    suspects = frame.filter(pl.col("text").str.contains_any(heads)).with_columns(
        pl.col("text").str.extract_many(heads, overlapping=True).list.unique().alias("heads")
    )
    for i, text, begun in suspects.iter_rows():
        for number in sorted(number for head in begun for number in by_head[head]):
            if all(_stands_in(part, text) for part in patterns[number]):
                yield i, number


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
