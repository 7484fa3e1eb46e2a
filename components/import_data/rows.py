"""Rows on their way in: as read from a file, and as set aside with the reason."""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from equilibrate_core.records import Record

BAD_UTF8 = "invalid UTF-8"
RAW_CHARS = 2000
_SURROGATE = re.compile("[\ud800-\udfff]")  # how undecodable bytes are read


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


AnyRow = JsonLine | RawRow


def as_object(value: Any, location: str, raw: str | None) -> RawRow:
    """The row of a JSON value, which has to be an object."""
    if isinstance(value, dict):
        return RawRow(location, value, raw)
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
