"""Lines of a JSONL file as they were read: one piece of bytes, and where its lines begin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import SEEK_CUR
from typing import BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
"""UTF-8 of texts, one after the other."""
Places = NDArray[np.int64]
NEWLINE, OPENING, CLOSING = b"\n{}"


@dataclass(frozen=True, eq=False)
class Lines(Sequence[bytes]):
    """Lines that follow each other; the last one of a file may have no end."""

    raw: bytes
    bounds: NDArray[np.int64]
    """Where each line begins in `raw`, and where the last one ends."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> "Lines": ...
    def __getitem__(self, place: int | slice) -> "bytes | Lines":
        if isinstance(place, slice):
            places = range(len(self))[place]
            return Lines(self.raw, self.bounds[places.start : places.stop + 1])
        place = range(len(self))[place]
        return self.raw[self.bounds[place] : self.bounds[place + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return (self.raw[start:end] for start, end in pairwise(self.bounds.tolist()))

    @property
    def block(self) -> memoryview:
        """All lines in one."""
        return memoryview(self.raw)[self.bounds[0] : self.bounds[-1]]

    def lengths(self) -> NDArray[np.int64]:
        """Number of bytes of each line, its end included."""
        return np.diff(self.bounds)

    def are_objects(self) -> bool:
        """Whether each line begins with { and ends with }, so that no JSON value spans lines.

        Nowhere inside a value may } and { stand with nothing but a line's end between them.
        """
        data = np.frombuffer(self.raw, dtype=np.uint8)
        ends = self.bounds[1:] - 1
        ends[-1] += data[ends[-1]] != NEWLINE
        is_object = (data[self.bounds[:-1]] == OPENING) & (data[ends - 1] == CLOSING)
        return bool(is_object.all())


def blocks_of_lines(file: BinaryIO, num_bytes: int, num_lines: int) -> Iterator[Lines]:
    """The rest of a file in blocks of about so many bytes, and of so many lines at most."""
    while raw := file.read(num_bytes):
        end = raw.rfind(NEWLINE) + 1
        if end and len(raw) == num_bytes:
            file.seek(end - len(raw), SEEK_CUR)  # copies less than to add the rest of the line
        else:
            raw += file.readline()  # of a line longer than a block; nothing at the file's end
            end = len(raw)
        ends = places(np.frombuffer(raw, dtype=np.uint8, count=end) == NEWLINE) + 1
        last = [] if len(ends) and ends[-1] == end else [end]
        lines = Lines(raw, np.concatenate([[0], ends, last]).astype(np.int64))
        for start in range(0, len(lines), num_lines):
            yield lines[start : start + num_lines]


def places(is_wanted: NDArray[np.bool_]) -> Places:
    """As `np.flatnonzero`, faster where hardly any is wanted: eight are looked at together."""
    whole = len(is_wanted) // 8 * 8
    words = np.flatnonzero(is_wanted[:whole].view(np.uint64) != 0)
    word, place = np.nonzero(is_wanted[:whole].reshape(-1, 8)[words])
    return np.append(words[word] * 8 + place, whole + np.flatnonzero(is_wanted[whole:]))
