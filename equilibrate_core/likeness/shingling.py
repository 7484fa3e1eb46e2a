"""Texts as sets of short pieces: what near-duplicates and contamination are decided on.

texts -> normalised texts (`normalising`) -> 64-bit shingle hashes, flat with offsets. A shingle is
five characters; of Chinese, Japanese and Korean, whose characters say as much as half a word, it is
one character or two in a row (with five, one changed character in fifteen would leave a third).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from equilibrate_core.likeness.normalising import DENSE, DENSE_RANGES

SHINGLE = 5
Hashes = NDArray[np.uint64]
Bools = NDArray[np.bool_]

_PAD = "\0"  # a text shorter than a shingle is one shingle
_WILD = "\1"  # any dense character inside five characters of another script
_FACTORS = np.random.default_rng(5).integers(1, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2) + (
    np.uint64(1)
)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@lru_cache(maxsize=4096)
def shingles(plain: str) -> frozenset[str]:
    """The distinct shingles of a normalised text; one shorter than a shingle is its own."""
    if not DENSE.search(plain):
        return frozenset(plain[i : i + SHINGLE] for i in range(max(len(plain) - SHINGLE + 1, 1)))
    masked = DENSE.sub(_WILD, plain)
    found: set[str] = set()
    for i, mark in enumerate(masked):
        dense = mark == _WILD
        found |= {plain[i], plain[i : i + 2]} if dense else {masked[i : i + SHINGLE]}
    return frozenset(found)


def jaccard(first: str, second: str) -> float:
    """Exact Jaccard similarity of two normalised texts' shingles."""
    mine, other = shingles(first), shingles(second)
    common = len(mine & other)
    return common / (len(mine) + len(other) - common)


def shingle_offsets(plain: pl.Series) -> Hashes:
    """Where each text's shingle hashes begin in the flat array, and at last its length."""
    letters = plain.str.len_chars().to_numpy().astype(np.uint64)
    windows = np.maximum(letters, SHINGLE) - np.uint64(SHINGLE - 1)
    (wide,) = np.nonzero(plain.str.len_bytes().to_numpy() > letters)  # not of ASCII alone
    dense = plain.gather(wide).str.count_matches(DENSE.pattern).to_numpy().astype(np.uint64)
    windows[wide] = np.where(dense > 0, letters[wide] + dense, windows[wide])
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(windows, dtype=np.uint64)])


def shingle_hashes(plain: Sequence[str]) -> Hashes:
    """Hashes of every shingle of every text, repeats included, text after text."""
    padded = [_padded(text) for text in plain]
    points = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
    dense = _dense(points)
    masked = np.where(dense, np.uint64(ord(_WILD)), points) if dense.any() else points
    windows = max(len(points) - SHINGLE + 1, 0)
    hashes = np.zeros(windows, dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        hashes += masked[place : place + windows] * factor
    inside = np.ones(windows, dtype=bool)
    ends = np.cumsum([len(text) for text in padded[:-1]], dtype=np.int64)
    for place in range(1, SHINGLE):
        inside[ends - place] = False  # begins in one text and ends in the next
    hashes = hashes[inside]
    if dense.any():
        hashes = _with_dense(hashes, points, dense, np.flatnonzero(inside))
    return _mixed(hashes)


def _padded(text: str) -> str:
    """The text so long that its shingles begin where a whole window does."""
    if text.isascii() or not DENSE.search(text):
        return text.ljust(SHINGLE, _PAD)
    return text + _PAD * (SHINGLE - 1)  # every character begins a shingle


def _with_dense(hashes: Hashes, points: Hashes, dense: Bools, starts: NDArray[np.int64]) -> Hashes:
    """The hashes with two in each dense character's place: of the character, of it and its next."""
    own = points[starts] * _FACTORS[0]
    pair = own + points[starts + 1] * _FACTORS[1]
    begun = dense[starts]
    copies = 1 + begun
    first = np.cumsum(copies) - copies
    flat = np.repeat(np.where(begun, own, hashes), copies)
    flat[first[begun] + 1] = pair[begun]
    return flat


def _dense(points: Hashes) -> Bools:
    found = np.zeros(len(points), dtype=bool)
    if not len(points) or points.max() < DENSE_RANGES[0][0]:
        return found
    for first, last in DENSE_RANGES:
        found |= (points >= first) & (points <= last)
    return found


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the input in every bit of the output (splitmix64's finaliser)."""
    for shift, factor in _MIX:
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(31))
