"""From the text of a CSV file to its rows, line by line, so that a stray quote costs one line.

An open text file -> RawRows; every line that is not blank belongs to exactly one of them.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator
from typing import TextIO

from components.import_data.rows import BAD_UTF8, RawRow, is_unicode
from equilibrate_core.errors import DataError

MAX_FIELD_CHARS = 16 * 2**20
MIN_SWALLOWED_ROWS = 10
"""A field that so many lines end, each of which is a row by itself, is no text: a quote is missing.
Fewer may be prose that happens to have as many commas as the header."""


def csv_rows(file: TextIO, name: str) -> Iterator[RawRow]:
    """Rows of a file opened with newline="" and "surrogateescape".

    What spans several lines and makes no row began with a stray quote, perhaps: its first line is
    set aside, and the next one is read as if it began a record.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = Lines(file)
    records = _records(lines)
    header = _header(records, lines, name)
    for record in records:
        if isinstance(record, list) and not record:
            continue  # a blank line
        problem = _problem(record, header)
        if problem is None and _swallows_rows(lines.parts, len(header)):
            problem = "a quoted field of lines that are rows by themselves; is a quote missing?"
            for number, line in enumerate(lines.parts, lines.first):
                yield RawRow(f"{name}:{number}", None, line, problem)
            continue
        if problem is not None and len(lines.parts) > 1:
            problem += "; a quote in this line opens a field of several lines"
            lines.give_back()
        text, location = "".join(lines.parts), f"{name}:{lines.first}"
        if not is_unicode(text):
            yield RawRow(location, None, text, BAD_UTF8)
        elif problem is not None or isinstance(record, csv.Error):
            yield RawRow(location, None, text, problem)
        else:
            yield RawRow(location, dict(zip(header, record, strict=True)), text)


def _records(lines: "Lines") -> Iterator[list[str] | csv.Error]:
    """Each record, or why it is none; `lines` tells which ones it came from."""
    records = csv.reader(lines, strict=True)
    while True:
        lines.start_record()
        try:
            record = next(records, None)
        except csv.Error as error:
            yield error
            continue
        if record is None:
            return
        yield record


def _header(records: Iterator[list[str] | csv.Error], lines: "Lines", name: str) -> list[str]:
    """The first record that is neither blank nor a comment; empty if there is none."""
    for record in records:
        if lines.parts[0].startswith("#"):
            lines.give_back()  # whatever quotes a comment holds
        elif isinstance(record, csv.Error):
            raise DataError(f"{name}:{lines.first}: the header is not CSV: {record}")
        elif record:
            _refuse_twins(record, f"{name}:{lines.first}")
            return record
    return []


def _refuse_twins(header: list[str], location: str) -> None:
    """Nobody can say which of two columns of one name is meant; columns without one are not."""
    twins = [repr(column) for column, number in Counter(header).items() if column and number > 1]
    if twins:
        raise DataError(
            f"{location}: the header names {', '.join(twins)} twice; rename or remove all but one"
        )


def _problem(record: list[str] | csv.Error, header: list[str]) -> str | None:
    if isinstance(record, csv.Error):
        return f"broken CSV: {record}"
    if len(record) != len(header):
        return f"{len(record)} columns where the header has {len(header)}"
    return None


def _swallows_rows(lines: list[str], num_columns: int) -> bool:
    """Whether a record's lines, but for the first, are many and each a row by itself."""
    if len(lines) <= MIN_SWALLOWED_ROWS or num_columns < 2:
        return False
    try:
        return all(len(next(csv.reader([line], strict=True))) == num_columns for line in lines[1:])
    except csv.Error:
        return False


class Lines:
    """The lines of a file, remembering which ones the current record came from."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self._num_read = 0
        self.start_record()

    def start_record(self) -> None:
        """Forget the last record's lines."""
        self.first = self._num_read + 1
        self.parts: list[str] = []

    def give_back(self) -> None:
        """Read all lines of this record but the first one again."""
        rest = self.parts[1:]
        self._again.extendleft(reversed(rest))
        self._num_read -= len(rest)
        del self.parts[1:]

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._num_read += 1
        self.parts.append(line)
        return line
