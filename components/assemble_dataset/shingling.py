"""Texts as sets of character 5-grams: what near-duplicates and contamination are decided on.

texts -> normalised texts -> 64-bit shingle hashes, flat with offsets. English and Chinese alike.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

SHINGLE = 5
Hashes = NDArray[np.uint64]

_PAD = "\0"  # a text shorter than a shingle is one shingle
_FACTORS = np.random.default_rng(5).integers(1, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2) + (
    np.uint64(1)
)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def normalised(texts: pl.Series) -> pl.Series:
    """Texts as they count for similarity: width, case, punctuation and spacing ignored.

    A text of punctuation alone stays as it is.
    """
    folded = pl.col("text").str.normalize("NFKC").str.to_lowercase()
    plain = folded.str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars(" ")
    wanted = pl.when(plain == "").then(folded).otherwise(plain)
    return texts.alias("text").to_frame().select(wanted.alias("text")).to_series()


@lru_cache(maxsize=4096)
def shingles(plain: str) -> frozenset[str]:
    """The distinct 5-grams of a normalised text; one shorter than that is its own."""
    return frozenset(plain[i : i + SHINGLE] for i in range(max(len(plain) - SHINGLE + 1, 1)))


def jaccard(first: str, second: str) -> float:
    """Exact Jaccard similarity of two normalised texts' 5-grams."""
    mine, other = shingles(first), shingles(second)
    common = len(mine & other)
    return common / (len(mine) + len(other) - common)


def shingle_offsets(plain: pl.Series) -> Hashes:
    """Where each text's shingle hashes begin in the flat array, and at last its length."""
    windows = plain.str.len_chars().clip(lower_bound=SHINGLE).cast(pl.UInt64) - (SHINGLE - 1)
    return np.concatenate([np.zeros(1, np.uint64), windows.cum_sum().to_numpy()])


def shingle_hashes(plain: Sequence[str]) -> Hashes:
    """Hashes of every 5-gram of every text, repeats included, text after text."""
    padded = [text.ljust(SHINGLE, _PAD) for text in plain]
    points = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
    windows = max(len(points) - SHINGLE + 1, 0)
    hashes = np.zeros(windows, dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        hashes += points[place : place + windows] * factor
    inside = np.ones(windows, dtype=bool)
    ends = np.cumsum([len(text) for text in padded[:-1]], dtype=np.int64)
    for place in range(1, SHINGLE):
        inside[ends - place] = False  # begins in one text and ends in the next
    return _mixed(hashes[inside])


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the input in every bit of the output (splitmix64's finaliser)."""
    for shift, factor in _MIX:
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(31))
