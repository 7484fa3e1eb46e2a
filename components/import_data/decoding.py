"""Rows of a block → structs of a layout's columns, for those that fit its types.

A row that does not fit is not wrong; it is one for `mapping.map_row`.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from components.import_data.lines import Lines
from components.import_data.rows import AnyRow, JsonLines, RawRow, Rows

Decoder = msgspec.json.Decoder[Any]
MAX_DIGITS = 4300
"""From here on Python refuses to read an integer, in whatever column it stands."""
UNFIT = (msgspec.MsgspecError, pa.ArrowInvalid, UnicodeError, RecursionError)


def fitting_rows(row: type[msgspec.Struct], rows: Rows) -> tuple[list[int], list[msgspec.Struct]]:
    """Places and columns of the rows that fit; all lines at once where none of them is odd."""
    decoder = msgspec.json.Decoder(row)
    if isinstance(rows, JsonLines):
        with suppress(*UNFIT):
            return list(range(len(rows))), _decoded_lines(decoder, rows.lines)
    decoded = [_decoded(decoder, row) for row in rows]
    places = [place for place, columns in enumerate(decoded) if columns is not None]
    return places, [columns for columns in decoded if columns is not None]


def _decoded(decoder: Decoder, row: AnyRow) -> msgspec.Struct | None:
    """The layout's columns; None if `map_row` might not see the row in this way."""
    try:
        if not isinstance(row, RawRow):
            return _decoded_lines(decoder, [row.line])[0]
        columns = msgspec.convert(row.value, decoder.type)
        msgspec.json.encode(columns)  # fails on a lone surrogate, which no line can bring here
        return columns
    except UNFIT:
        return None


def _decoded_lines(decoder: Decoder, lines: Sequence[bytes]) -> list[msgspec.Struct]:
    """Columns of all lines. Raises one of UNFIT if there is a line that does not fit."""
    if isinstance(lines, Lines):
        return _decoded_block(decoder, lines)
    for line in lines:
        _check(line)
    return list(map(decoder.decode, lines))


def _decoded_block(decoder: Decoder, lines: Lines) -> list[msgspec.Struct]:
    if not lines.are_objects():
        raise msgspec.DecodeError("a line that is no object, or has space around it")
    block = lines.block
    _check_utf8(block)
    for place in (lines.lengths() > MAX_DIGITS).nonzero()[0].tolist():
        _check(lines[place])
    decoded = decoder.decode_lines(block)
    if len(decoded) != len(lines):
        raise msgspec.DecodeError("a line of several objects")
    return decoded


def _check_utf8(block: memoryview) -> None:
    bounds = pa.py_buffer(np.array([0, len(block)], dtype=np.int64))
    text = pa.LargeStringArray.from_buffers(1, bounds, pa.py_buffer(block))
    text.validate(full=True)


def _check(line: bytes) -> None:
    """Raise one of UNFIT for what a decoder does not see: columns that nobody reads count too."""
    if not line.isascii():
        line.decode()
    if len(line) > MAX_DIGITS and _num_digits(line) > MAX_DIGITS:
        raise msgspec.DecodeError("digits without end")


def _num_digits(line: bytes) -> int:
    return len(line) - len(line.translate(None, b"0123456789"))
