"""Rows on their way in: as read from a file, and as set aside with the reason."""

import json
import re
from dataclasses import dataclass
from typing import Any

from equilibrate_core.records import Record

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
