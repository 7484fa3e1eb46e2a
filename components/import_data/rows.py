"""Rows on their way in: as read from a file, and as set aside with the reason."""

import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, overload

from equilibrate_core.records import Record

BAD_UTF8 = "invalid UTF-8"
ROWS_PER_BLOCK = 16384
BYTES_PER_BLOCK = 4 * 2**20
RAW_CHARS = 2000
_SURROGATE = re.compile("[\ud800-\udfff]")  # how undecodable bytes are read
_PLACE = re.compile(r"(:\d+|\[\d+\])$")


class QuarantinedRow(Record):
    """A row that could not be used, kept for whoever mends the source."""

    source: str
    """Name of the source in the run config."""
    location: str
    """file:line, or file[index] where a file has no lines."""
    reason: str
    raw: str
    """The first 2000 characters as read; what is not Unicode became a replacement character."""


class RowError(ValueError):
    """A row that cannot be used, unlike the rest of its file; the message says why."""


@dataclass(frozen=True)
class RawRow:
    """A row as read: `value` is None exactly when `problem` says why it could not be parsed."""

    location: str
    value: dict[str, Any] | None
    raw: str | None = None
    """Text of the row, where there is one."""
    problem: str | None = None
    num_bytes: int = 0
    """Memory it takes, about, where there is no text to tell."""


class JsonLine(NamedTuple):
    """A line of a JSONL file, not yet parsed."""

    file: str
    number: int
    line: bytes

    def parsed(self) -> RawRow:
        """The row in this line, or the reason why there is none."""
        raw = self.line.decode("utf-8", "surrogateescape").strip()
        location = f"{self.file}:{self.number}"
        if not is_unicode(raw):
            return RawRow(location, None, raw, BAD_UTF8)
        try:
            return as_object(json.loads(raw), location, raw)
        except json.JSONDecodeError as error:
            return RawRow(location, None, raw, f"broken JSON at column {error.colno}: {error.msg}")
        except (ValueError, RecursionError) as error:  # endless digits or brackets
            return RawRow(location, None, raw, f"broken JSON: {error}")


@dataclass(frozen=True)
class JsonLines:
    """Lines of a JSONL file that follow each other, blank ones left out."""

    file: str
    numbers: Sequence[int]
    lines: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, place: int) -> JsonLine: ...
    @overload
    def __getitem__(self, place: slice) -> "JsonLines": ...
    def __getitem__(self, place: int | slice) -> "JsonLine | JsonLines":
        if isinstance(place, slice):
            return JsonLines(self.file, self.numbers[place], self.lines[place])
        return JsonLine(self.file, self.numbers[place], self.lines[place])

    def __iter__(self) -> Iterator[JsonLine]:
        return map(JsonLine, repeat(self.file), self.numbers, self.lines)


AnyRow = JsonLine | RawRow
Rows = JsonLines | list[RawRow]
"""A block: rows of one file that follow each other."""


def in_blocks(rows: Iterable[RawRow]) -> Generator[Rows]:
    """The rows in blocks of bounded size."""
    block: list[RawRow] = []
    num_bytes = 0
    for row in rows:
        block.append(row)
        num_bytes += len(row.raw or "") or row.num_bytes
        if len(block) >= ROWS_PER_BLOCK or num_bytes >= BYTES_PER_BLOCK:
            yield block
            block, num_bytes = [], 0
    if block:
        yield block


def file_of(rows: Rows) -> str:
    """Name of the file (or hub dataset) that a block's rows come from."""
    return rows.file if isinstance(rows, JsonLines) else _PLACE.sub("", rows[0].location)


def first_rows(blocks: Generator[Rows], number: int) -> Generator[Rows]:
    """So many rows at most."""
    with closing(blocks):
        for rows in blocks:
            yield rows[:number]
            number -= len(rows)
            if number <= 0:
                return


def as_object(value: Any, location: str, raw: str | None, num_bytes: int = 0) -> RawRow:
    """The row of a JSON value, which has to be an object."""
    if isinstance(value, dict):
        return RawRow(location, value, raw, num_bytes=num_bytes)
    raw = json.dumps(value, ensure_ascii=False) if raw is None else raw
    return RawRow(location, None, raw, f"expected an object, found {type(value).__name__}")


def parsed(row: AnyRow) -> RawRow:
    """The row itself, parsed now if it has not been."""
    return row if isinstance(row, RawRow) else row.parsed()


def quarantined(source: str, row: RawRow, reason: str) -> QuarantinedRow:
    """The row to set aside for `reason`."""
    raw = row.raw
    if raw is None:
        raw = json.dumps(row.value, ensure_ascii=False, default=str)
    return QuarantinedRow(
        source=source, location=row.location, reason=printable(reason), raw=printable(raw)
    )


def printable(text: str) -> str:
    """Start of a text with everything that is not Unicode replaced."""
    return _SURROGATE.sub("\ufffd", text[:RAW_CHARS])


def is_unicode(text: str) -> bool:
    """False for text that holds undecodable bytes or lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
