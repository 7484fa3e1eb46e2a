"""Texts as sets of numbers: their distinct shingles, the rarest of all texts' first.

normalised texts -> flat shingle numbers with each text's count; as sparse rows for multiplication.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from equilibrate_core.likeness.sketches import hashed

Ints = NDArray[np.int64]


def shingle_sets(plain: pl.Series) -> tuple[NDArray[np.int32], Ints]:
    """Distinct shingles of every text, ascending, text after text; and how many each text has.

    Shingles are numbered by how often they occur, so that each text's rarest stand first.
    """
    hashes, offsets = hashed(plain)
    table = pl.DataFrame({"hash": hashes})
    numbers = table.group_by("hash").len().sort("len", "hash").select("hash")
    numbers = numbers.with_row_index("number")
    number = table.join(numbers, on="hash", how="left", maintain_order="left")["number"].to_numpy()
    text = np.arange(len(plain), dtype=np.uint64) << np.uint64(32)
    keys = np.repeat(text, np.diff(offsets).astype(np.int64)) | number
    keys.sort()
    keys = keys[np.concatenate([np.ones(1, bool), keys[1:] != keys[:-1]])]
    sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(plain))
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int32), sizes


def as_rows(columns: NDArray[np.integer], sizes: Ints) -> csr_array:
    """A sparse row of ones for each set, given flat with its sizes."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    width = int(columns.max()) + 1 if len(columns) else 1
    ones = np.ones(len(columns), dtype=np.int32)
    return csr_array((ones, columns.astype(np.int32), ends), shape=(len(sizes), width))


def shape(rows: csr_array) -> tuple[int, int]:
    """Rows and columns; scipy's own attribute may be None to a type checker."""
    num_rows, num_columns = rows.shape  # pyright: ignore[reportGeneralTypeIssues]
    return num_rows, num_columns
