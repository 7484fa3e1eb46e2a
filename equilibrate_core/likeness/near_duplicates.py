"""Near-duplicate texts: proposed by MinHash bands, decided by an exact search among those proposed.

normalised texts, most precious first -> which earlier text each one repeats. A text goes if it is
alike one *that stays*, so that a chain of small changes does not swallow texts unlike each other.
"""

import logging
from dataclasses import dataclass

import numpy as np
import polars as pl

from equilibrate_core.likeness.set_join import SetJoin
from equilibrate_core.likeness.shingle_sets import Ints
from equilibrate_core.likeness.sketches import Sketches

log = logging.getLogger(__name__)
NUM_BANDS = 16
"""16 bands of 6 rows: texts of Jaccard 0.8 meet with probability 0.992, of 0.85 with 0.9994."""


@dataclass(frozen=True)
class Duplicates:
    """Which texts repeat an earlier one, and what the search for them was."""

    owner: Ints
    """Index of the text that stays for each text that goes, -1 for those that stay."""
    num_compared: int = 0
    """Pairs of texts that were compared shingle by shingle."""
    num_cut_short: int = 0
    """Texts that stay although not all that might be like them were looked at (`set_join`)."""


def duplicate_of(plain: pl.Series, *, threshold: float) -> Ints:
    """Index of the text that stays for each text that goes, -1 for those that stay.

    Of texts at least `threshold` alike the first stays; `plain` holds normalised texts.
    """
    return near_duplicates(plain, threshold=threshold).owner


def near_duplicates(plain: pl.Series, *, threshold: float) -> Duplicates:
    """`duplicate_of`, with the figures of the search."""
    first = _first_equal(plain)
    (distinct,) = np.nonzero(first == np.arange(len(first)))
    texts = plain.gather(distinct)
    (suspects,) = np.nonzero(Sketches(texts).repeated(NUM_BANDS))
    owner = np.full(len(plain), -1, dtype=np.int64)
    figures = (0, 0)
    if len(suspects):
        join = SetJoin(texts.gather(suspects), threshold)
        found = np.full(len(suspects), -1, dtype=np.int64)
        _settle(join, np.arange(len(suspects)), found)
        goes = found >= 0
        owner[distinct[suspects[goes]]] = distinct[suspects[found[goes]]]
        figures = join.num_compared, int((join.cut_short & ~goes).sum())
    if figures[1]:
        log.warning(
            "near-duplicates: %d prompts stay although not all that might be like them were "
            "compared: too many share most of what they say",
            figures[1],
        )
    # A copy follows the text it equals.
    stays = owner[first] == -1
    owner = np.where(first == np.arange(len(first)), owner, np.where(stays, first, owner[first]))
    return Duplicates(owner, *figures)


def _first_equal(plain: pl.Series) -> Ints:
    frame = plain.alias("text").to_frame().with_row_index("i")
    first = frame.select(pl.col("i").min().over("text").cast(pl.Int64)).to_series()
    return first.to_numpy()


def _settle(join: SetJoin, rows: Ints, owner: Ints) -> Ints:
    """Find the owners among these texts; returns the texts that stay.

    The first half is settled by itself, then all of the second is held against what stays of it:
    as if the texts came one by one, in searches large enough to be fast.
    """
    if join.is_affordable(rows):
        for later, earlier in zip(*(p.tolist() for p in join.pairs_within(rows)), strict=True):
            if owner[later] < 0 and owner[earlier] < 0:
                owner[later] = earlier
        return rows[owner[rows] < 0]
    half = len(rows) // 2
    kept = _settle(join, rows[:half], owner)
    owner[rows[half:]] = join.first_alike(rows[half:], kept)
    rest = rows[half:][owner[rows[half:]] < 0]
    return np.concatenate([kept, _settle(join, rest, owner)])
