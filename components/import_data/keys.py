"""A set of ids, without Python's strings: numbers in sorted arrays, most of them in long ones."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.import_data.identities import ID_BYTES

ID_CHARS = 2 * ID_BYTES
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
"""Odd, with bits all over: what two ids have in common does not show in their numbers."""
Numbers = NDArray[np.uint64]
FIRST_BITS = 24
"""By these of its bits most new numbers are told apart from those that were seen."""


class Keys:
    """Ids that were seen."""

    def __init__(self) -> None:
        self._runs: list[Numbers] = []
        self._is_first = np.zeros(2**FIRST_BITS, dtype=bool)

    def add_new(self, ids: pa.ChunkedArray) -> bool:
        """Add these ids if none of them was there and none of them comes twice; whether they were.

        False, once in an age, of new ids, too, whose numbers are equal by chance.
        """
        if not len(ids):
            return True
        numbers = np.sort(_numbers(ids))
        first = numbers >> np.uint64(64 - FIRST_BITS)
        seen = numbers[self._is_first[first]]
        if (numbers[1:] == numbers[:-1]).any() or any(_meet(run, seen) for run in self._runs):
            return False
        self._is_first[first] = True
        self._runs.append(numbers)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
        return True


def _numbers(ids: pa.ChunkedArray) -> Numbers:
    _, _, codes = pa.concat_arrays(ids.chunks).buffers()  # a copy: parts of tables begin anew
    words = np.frombuffer(codes or b"", np.uint64, count=len(ids) * ID_CHARS // 8)
    return words.reshape(-1, ID_CHARS // 8) @ FACTORS


def _meet(run: Numbers, numbers: Numbers) -> bool:
    places = np.minimum(np.searchsorted(run, numbers), len(run) - 1)
    return bool((run[places] == numbers).any())
