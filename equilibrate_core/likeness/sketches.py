"""MinHash sketches of many texts at once, and the texts that fall into a band together.

Everything here only proposes; `near_duplicates` and `contamination` decide by exact Jaccard.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rensa import (  # compiled, without types
    RMinHash,  # pyright: ignore[reportAttributeAccessIssue]
    RMinHashDigestMatrix,  # pyright: ignore[reportAttributeAccessIssue]
    RMinHashLSH,  # pyright: ignore[reportAttributeAccessIssue]
)

from equilibrate_core.likeness.shingling import Hashes, shingle_hashes, shingle_offsets

NUM_PERMUTATIONS = 96
TEXTS_PER_CHUNK = 20_000
SHINGLES_PER_MATRIX = 120_000_000
"""Bounds the shingle hashes in memory to about 1 GB; a million prompts usually fit."""
Bools = NDArray[np.bool_]
Rows = NDArray[np.uint32]


class Sketches:
    """MinHash sketches of texts that are already normalised, in order."""

    def __init__(self, plain: pl.Series) -> None:
        self._matrices = [_matrix(part) for part in _parts(plain)]

    def repeated(self, num_bands: int) -> Bools:
        """Which texts share a band with another one."""
        index = RMinHashLSH(0.5, NUM_PERMUTATIONS, num_bands)
        if len(self._matrices) == 1:  # ten times as fast as an index that stays
            return np.asarray(index.query_duplicate_flags_matrix_one_shot(self._matrices[0]), bool)
        _insert(index, self._matrices)
        return self._flags(index)

    def shared_with(self, others: "Sketches", num_bands: int) -> Bools:
        """Which texts share a band with one of `others`."""
        index = RMinHashLSH(0.5, NUM_PERMUTATIONS, num_bands)
        # The library flags a text that finds two keys, expecting itself among them.
        _insert(index, others._matrices * 2)
        return self._flags(index)

    def _flags(self, index: RMinHashLSH) -> Bools:
        flags = [np.asarray(index.query_duplicate_flags_matrix(m), bool) for m in self._matrices]
        return np.concatenate([np.zeros(0, bool), *flags])


def _insert(index: RMinHashLSH, matrices: list[RMinHashDigestMatrix]) -> None:
    key = 0
    for matrix in matrices:
        index.insert_matrix(matrix, key)
        key += matrix.len()


def signature_rows(plain: pl.Series) -> Rows:
    """Signatures of texts, shape (texts, NUM_PERMUTATIONS)."""
    chunks = (_matrix(chunk) for chunk in _chunks(plain))
    rows = [np.asarray(matrix.to_rows(), dtype=np.uint32) for matrix in chunks]
    return np.concatenate([np.zeros((0, NUM_PERMUTATIONS), np.uint32), *rows])


def band_keys(rows: Rows, num_bands: int) -> NDArray[np.void]:
    """One comparable key per text and band, shape (texts, num_bands)."""
    width = NUM_PERMUTATIONS // num_bands
    packed = np.ascontiguousarray(rows[:, : width * num_bands]).reshape(-1, num_bands, width)
    return packed.view(np.dtype((np.void, 4 * width)))[:, :, 0]


def _parts(plain: pl.Series) -> list[pl.Series]:
    """Runs of texts whose shingles fit into one matrix."""
    parts = pl.select(plain.str.len_chars().cum_sum() // SHINGLES_PER_MATRIX).to_series()
    starts = [0, *parts.to_frame("part").with_row_index("i").filter(pl.col("part").diff() > 0)["i"]]
    ends = [*starts[1:], len(plain)]
    return [plain.slice(i, j - i) for i, j in zip(starts, ends, strict=True)]


def _chunks(plain: pl.Series) -> list[pl.Series]:
    starts = range(0, len(plain), TEXTS_PER_CHUNK)
    return [plain.slice(start, TEXTS_PER_CHUNK) for start in starts]


def _matrix(plain: pl.Series) -> RMinHashDigestMatrix:
    return RMinHash.digest_matrix_from_flat_token_hashes(*hashed(plain), NUM_PERMUTATIONS, 0)


def hashed(plain: pl.Series) -> tuple[Hashes, Hashes]:
    """Hashes of the shingles of many texts, flat, and where each text's begin."""
    offsets = shingle_offsets(plain)
    hashes = np.empty(int(offsets[-1]), dtype=np.uint64)

    def fill(number: int, chunk: pl.Series) -> None:
        start = int(offsets[number * TEXTS_PER_CHUNK])
        found = shingle_hashes(chunk.to_list())
        hashes[start : start + len(found)] = found

    chunks = _chunks(plain)
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(fill, range(len(chunks)), chunks))
    return hashes, offsets
