"""The bound on an exact search: shingles in too many texts lead to the shortest of them alone.

rows of prefix shingles asked for and held -> which shingles are too common, and shorter lists.
"""

import numpy as np
from scipy.sparse import csr_array

from equilibrate_core.likeness.shingle_sets import Ints, shape

LOOKED_UP = 20_000
"""Places of other texts looked up per text and search, on average: those of the rarest shingles."""
FREELY_LOOKED_UP, COMMON_SHARE = 1_000, 0.05
"""Beyond so many, a shingle that more than this share of the texts have is not looked up, either:
those of an instruction in front of every prompt cost most and tell least."""
SHORTEST = 16
"""Texts that a shingle too common still leads to: the shortest, which little but it fills."""


def lengths(rows: csr_array) -> Ints:
    """How many rows each column has."""
    _, num_columns = shape(rows)
    return np.bincount(rows.indices, minlength=num_columns)


def too_common(held: csr_array, asked: csr_array) -> Ints:
    """1 for the columns with the longest lists, without which the bounds hold."""
    longest = lengths(held)
    (num_held, _), (num_asked, _) = shape(held), shape(asked)
    cost = longest * lengths(asked) / num_asked
    found = np.zeros(len(cost), dtype=np.int64)
    if cost.sum() > FREELY_LOOKED_UP:
        order = np.argsort(longest, kind="stable")
        looked_up = np.cumsum(cost[order])
        is_shared = longest[order] > COMMON_SHARE * num_held
        found[order] = (looked_up > LOOKED_UP) | (is_shared & (looked_up > FREELY_LOOKED_UP))
    return found * (longest > SHORTEST)


def shortened(held: csr_array, sizes: Ints, common: Ints) -> tuple[csr_array, Ints]:
    """`held` with the shortest texts alone in common columns, and the size of the next in each.

    `sizes` are those of the rows. A place that stays in a common column counts 1, others as before.
    """
    row = np.repeat(np.arange(len(sizes)), np.diff(held.indptr))
    is_common = common[held.indices] > 0
    row_c, column_c = row[is_common], held.indices[is_common].astype(np.int64)
    order = np.lexsort((row_c, sizes[row_c], column_c))
    row_c, column_c = row_c[order], column_c[order]
    place = np.arange(len(row_c)) - np.searchsorted(column_c, column_c)
    next_size = np.full(len(common), np.iinfo(np.int64).max)
    next_size[column_c[place == SHORTEST]] = sizes[row_c[place == SHORTEST]]
    few = place < SHORTEST
    data = np.concatenate([held.data[~is_common], np.ones(few.sum(), held.data.dtype)])
    rows = np.concatenate([row[~is_common], row_c[few]])
    columns = np.concatenate([held.indices[~is_common], column_c[few]])
    return csr_array((data, (rows, columns)), shape=held.shape), next_size
