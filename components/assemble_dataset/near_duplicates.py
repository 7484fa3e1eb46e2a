"""Near-duplicate texts: proposed by MinHash bands, decided by exact Jaccard of character 5-grams.

normalised texts, most precious first -> which earlier text each one repeats. A text goes if it is
alike one *that stays*, so that a chain of small changes does not swallow texts unlike each other.
"""

from collections import defaultdict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.assemble_dataset.shingling import jaccard
from components.assemble_dataset.sketches import Rows, Sketches, band_keys, signature_rows

NUM_BANDS = 16
"""16 bands of 6 rows: texts of Jaccard 0.8 meet with probability 0.992, of 0.85 with 0.9994."""
FEW = 8
SLACK = 0.2
"""Candidates whose sketches agree in less than the threshold minus this (about five standard
deviations) are not compared exactly when there are more than FEW."""
Ints = NDArray[np.int64]


def duplicate_of(plain: pl.Series, *, threshold: float) -> Ints:
    """Index of the text that stays for each text that goes, -1 for those that stay.

    Of texts at least `threshold` alike the first stays; `plain` holds normalised texts.
    """
    first = _first_equal(plain)
    (distinct,) = np.nonzero(first == np.arange(len(first)))
    owner = np.full(len(plain), -1, dtype=np.int64)
    texts = plain.gather(distinct)
    for i, kept in _alike(texts, threshold).items():
        owner[distinct[i]] = distinct[kept]
    # A copy follows the text it equals.
    stays = owner[first] == -1
    return np.where(first == np.arange(len(first)), owner, np.where(stays, first, owner[first]))


def _first_equal(plain: pl.Series) -> Ints:
    frame = plain.alias("text").to_frame().with_row_index("i")
    first = frame.select(pl.col("i").min().over("text").cast(pl.Int64)).to_series()
    return first.to_numpy()


def _alike(texts: pl.Series, threshold: float) -> dict[int, int]:
    """For each of these distinct texts that goes, the earlier one that stays."""
    (suspects,) = np.nonzero(Sketches(texts).repeated(NUM_BANDS))
    rows = signature_rows(texts.gather(suspects))
    plain = texts.gather(suspects).to_list()
    groups = _groups(rows)
    staying: defaultdict[int, list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for i, (text, own) in enumerate(zip(plain, groups, strict=True)):
        if not own:
            continue
        candidates = sorted({other for group in own for other in staying[group]})
        if len(candidates) > FEW:
            candidates = _promising(rows, i, candidates, threshold)
        match = next((j for j in candidates if jaccard(text, plain[j]) >= threshold), None)
        if match is not None:
            found[int(suspects[i])] = int(suspects[match])
            continue
        for group in own:
            staying[group].append(i)
    return found


def _groups(rows: Rows) -> list[list[int]]:
    """For each text the bands' buckets, by number, that hold another text too."""
    groups: list[list[int]] = [[] for _ in rows]
    start = 0
    for keys in band_keys(rows, NUM_BANDS).T:
        _, bucket, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        (shared,) = np.nonzero(sizes[bucket] > 1)
        for i, number in zip(shared.tolist(), (bucket[shared] + start).tolist(), strict=True):
            groups[i].append(number)
        start += len(sizes)
    return groups


def _promising(rows: Rows, i: int, candidates: list[int], threshold: float) -> list[int]:
    agreement = (rows[candidates] == rows[i]).mean(axis=1)
    return [j for j, share in zip(candidates, agreement, strict=True) if share >= threshold - SLACK]
