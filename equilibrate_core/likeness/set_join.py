"""Exact search for texts alike, fast where all of them share most of what they say.

Texts are sets of shingles, the rarest first. Sets of Jaccard t or more have one in common among
the first |x| - ceil(t |x|) + 1 of each (prefix filter: Chaudhuri et al. 2006, Bayardo et al. 2007),
so an instruction in front of every prompt, common as its shingles are, brings none together. How
many they have in common there bounds what they can have in all (Xiao et al. 2008): few pairs are
left to compare. Work is bounded per text (`common_shingles`), and the texts for which the bound
may have hidden one alike are told.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from equilibrate_core.likeness.common_shingles import lengths, shortened, too_common
from equilibrate_core.likeness.shingle_sets import Ints, as_rows, shingle_sets

MOST_COMPARED = 128
"""Texts that a text is compared with at most in one search, those first that share most."""
TOGETHER = 8192
"""Texts compared with each other at once, if not too many are alike:"""
TOGETHER_LOOKED_UP = 2_000
"""if no more places of other texts than these are looked up per text, on average."""
AT_ONCE = 8_000_000
"""Places looked up, and shingles compared, at once; bounds memory to about 0.5 GB."""
_STEP = 1 << 12  # what a shared shingle counts; one that is too common counts 1
_EPSILON = 1e-9  # t |x| may come out a hair above a whole number
_NONE = np.iinfo(np.int64).max


class SetJoin:
    """Texts as sets, and which of them are alike; their order is the caller's."""

    def __init__(self, plain: pl.Series, threshold: float) -> None:
        self.threshold = threshold
        self.num_compared = 0
        """Pairs of texts whose sets were compared."""
        self.cut_short = np.zeros(len(plain), dtype=bool)
        """Texts for which a search did not look at all that might be alike."""
        columns, self._sizes = shingle_sets(plain)
        self._sets = as_rows(columns, self._sizes)
        self._rest = np.ceil(threshold * self._sizes - _EPSILON).astype(np.int64) - 1
        prefix = self._sizes - self._rest
        self._last = columns[np.cumsum(self._sizes) - self._rest - 1]
        parts = np.column_stack([prefix, self._rest]).ravel()
        first = columns[np.repeat(np.tile([True, False], len(prefix)), parts)]
        shared = np.bincount(first) > 1  # others bring no texts together
        owners = np.repeat(np.arange(len(prefix)), prefix)[shared[first]]
        numbers = (np.cumsum(shared) - 1)[first[shared[first]]]
        self._prefixes = as_rows(numbers, np.bincount(owners, minlength=len(prefix)))

    def is_affordable(self, rows: Ints) -> bool:
        """Whether comparing all of these texts with each other looks little up."""
        if len(rows) <= 32 or len(rows) > TOGETHER:
            return len(rows) <= 32
        lists = lengths(self._prefixes[rows])
        return int(lists @ lists) <= TOGETHER_LOOKED_UP * len(rows)

    def pairs_within(self, rows: Ints) -> tuple[Ints, Ints]:
        """All pairs of these texts that are alike, as a later and an earlier one, in order."""
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for i, j, _ in self._promising(rows, rows, bounded=False):
            earlier = j < i
            found.append(self._compared(rows[i[earlier]], rows[j[earlier]]))
        later, before = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.lexsort((before, later))
        return later[order], before[order]

    def first_alike(self, rows: Ints, kept: Ints) -> Ints:
        """The first text among `kept` that each of `rows` is like, or -1."""
        first = np.full(len(self._sizes), _NONE)
        for i, j, common in self._promising(rows, kept, bounded=True):
            order = np.lexsort((j, -common, i))
            i, j = i[order], j[order]
            few = np.arange(len(i)) - np.searchsorted(i, i) < MOST_COMPARED
            self.cut_short[rows[i[~few]]] = True
            one, other = self._compared(rows[i[few]], kept[j[few]])
            np.minimum.at(first, one, other)
        return np.where(first[rows] == _NONE, -1, first[rows])

    def _compared(self, one: Ints, other: Ints) -> tuple[Ints, Ints]:
        """Those of the pairs that are alike."""
        self.num_compared += len(one)
        alike = np.zeros(len(one), dtype=bool)
        sizes = self._sizes[one] + self._sizes[other]
        for start, end in _runs(np.cumsum(np.append(0, sizes))):
            a, b = one[start:end], other[start:end]
            common = np.diff(self._sets[a].multiply(self._sets[b]).indptr)
            alike[start:end] = common / (sizes[start:end] - common) >= self.threshold
        return one[alike], other[alike]

    def _promising(
        self, rows: Ints, kept: Ints, *, bounded: bool
    ) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Places in rows and in kept that may be alike, and how much their prefixes share."""
        asked, lists = self._prefixes[rows], self._prefixes[kept]
        common = too_common(lists, asked) if bounded else np.zeros(lists.shape[1], np.int64)
        skipped, skipped_kept = asked @ common, lists @ common
        lists.data[:] = _STEP
        if common.any():
            lists, next_size = shortened(lists, self._sizes[kept], common)
            self._tell(rows, asked, skipped, next_size)
        index = lists.T.tocsr()
        cost = np.cumsum(np.append(0, lengths(lists)[asked.indices]))[asked.indptr]
        for start, end in _runs(cost):
            product = asked[start:end] @ index
            i = start + np.repeat(np.arange(end - start), np.diff(product.indptr))
            j = product.indices.astype(np.int64)
            one, other = rows[i], kept[j]
            is_first = self._last[one] <= self._last[other]
            rest = np.where(is_first, self._rest[one], self._rest[other])
            most = product.data // _STEP + rest + np.minimum(skipped[i], skipped_kept[j])
            sizes = self._sizes[one] + self._sizes[other]
            needed = np.ceil(self.threshold / (1 + self.threshold) * sizes - _EPSILON)
            may = most >= needed
            yield i[may], j[may], product.data[may]

    def _tell(self, rows: Ints, asked: csr_array, skipped: Ints, next_size: Ints) -> None:
        """Mark the texts that one left out might be like: it would have to be that short."""
        most = self._rest[rows] + skipped  # shingles shared with a text met nowhere
        longest = most * (1 + self.threshold) / self.threshold - self._sizes[rows] + _EPSILON
        row = np.repeat(np.arange(len(rows)), np.diff(asked.indptr))
        self.cut_short[rows[row[next_size[asked.indices] <= longest[row]]]] = True


def _runs(cost: Ints) -> Iterator[tuple[int, int]]:
    """Runs of rows that together cost AT_ONCE at most, or are one row; `cost` is cumulative."""
    start = 0
    while start < len(cost) - 1:
        end = int(np.searchsorted(cost, cost[start] + AT_ONCE, side="right")) - 1
        end = max(end, start + 1)
        yield start, end
        start = end
