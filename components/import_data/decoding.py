"""Rows of a block → columns of a layout, for the rows that fit its types.

A row that does not fit is not wrong; it is one for `mapping.map_row`. Lines of JSON are read by
Arrow, all at once, where every one of them fits; else, as rows from elsewhere, one by one.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json as pj
from numpy.typing import NDArray

from components.import_data.layouts import Layout
from components.import_data.lines import Codes, Lines, places
from components.import_data.rows import AnyRow, JsonLines, RawRow, Rows

Columns = dict[str, pa.Array]
"""Name of a column → its values; numbers as text."""
Decoder = msgspec.json.Decoder[Any]
MAX_DIGITS = 4300
"""From here on Python refuses to read an integer, in whatever column it stands."""
MAX_OPENINGS = 800
"""So many brackets and braces in a line Python can follow, however deep they go."""
NUM_SAMPLED = 32
"""Lines of a block that tell which of its types a column has."""
KINDS: Mapping[type, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    list: pa.list_(pa.string()),
}
UNFIT = (msgspec.MsgspecError, pa.ArrowInvalid, UnicodeError, RecursionError)


def fitting_rows(layout: Layout, rows: Rows) -> tuple[Sequence[int], Columns]:
    """Places of the rows that fit, and their columns."""
    decoder = msgspec.json.Decoder(layout.row)
    if isinstance(rows, JsonLines) and isinstance(rows.lines, Lines):
        with suppress(*UNFIT):
            return range(len(rows)), _read_lines(layout, decoder, rows.lines)
    decoded = [_decoded(decoder, row) for row in rows]
    fitting = [place for place, row in enumerate(decoded) if row is not None]
    return _in_columns(layout, fitting, [row for row in decoded if row is not None])


def _decoded(decoder: Decoder, row: AnyRow) -> msgspec.Struct | None:
    """The layout's columns; None if `map_row` might not see the row in this way."""
    try:
        if not isinstance(row, RawRow):
            row.line.decode()  # the decoder does not look at columns that nobody reads
            _check_long(row.line)
            return decoder.decode(row.line)
        columns = msgspec.convert(row.value, decoder.type)
        msgspec.json.encode(columns)  # fails on a lone surrogate, which no line can bring here
        return columns
    except UNFIT:
        return None


def _in_columns(
    layout: Layout, fitting: list[int], rows: list[msgspec.Struct]
) -> tuple[list[int], Columns]:
    """The rows by columns, without those whose value is not of the type the column began with."""
    values = {name: list(map(read, rows)) for name, read in layout.readers.items()}
    is_fit = np.ones(len(rows), dtype=bool)
    kinds: dict[str, pa.DataType] = {}
    for name, column in values.items():
        if int in map(type, column):
            values[name] = column = [str(v) if type(v) is int else v for v in column]
        types = [None if value is None else type(value) for value in column]
        kind = next(filter(None, types), layout.kinds[name])
        is_fit &= np.array([each in (kind, None) for each in types], dtype=bool)
        kinds[name] = KINDS[kind]
    chosen = np.flatnonzero(is_fit).tolist()
    columns = {
        name: pa.array([column[i] for i in chosen], kinds[name]) for name, column in values.items()
    }
    return [fitting[i] for i in chosen], columns


def _read_lines(layout: Layout, decoder: Decoder, lines: Lines) -> Columns:
    """Columns of all lines. Raises one of UNFIT if there is a line that does not fit."""
    if not lines.are_objects():
        raise msgspec.DecodeError("a line that is no object, or has space around it")
    codes = np.frombuffer(lines.block, np.uint8)
    _check_utf8(codes)
    _check_numbers(codes)
    for place in (lines.lengths() > 2 * MAX_OPENINGS).nonzero()[0].tolist():
        _check_long(lines[place])
    sample = list(map(decoder.decode, lines[:NUM_SAMPLED]))
    kinds = {name: _kind(layout, name, sample) for name in layout.readers}
    schema = kinds | dict.fromkeys(layout.absent, pa.null())
    table = pj.read_json(
        pa.BufferReader(pa.py_buffer(codes)),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(codes) + 1),
        parse_options=pj.ParseOptions(pa.schema(schema), unexpected_field_behavior="ignore"),
    )
    if table.num_rows != len(lines):
        raise msgspec.DecodeError("a line of several objects")
    return {name: _whole(table[name]) for name in kinds}


def _kind(layout: Layout, name: str, rows: list[msgspec.Struct]) -> pa.DataType:
    """Type of a column by some of its rows."""
    kinds = {type(value) for value in map(layout.readers[name], rows) if value is not None}
    if len(kinds) > 1:
        raise msgspec.DecodeError("a column of several types")
    return KINDS[kinds.pop() if kinds else layout.kinds[name]]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks()
    return values.cast(pa.string()) if pa.types.is_integer(values.type) else values


def _check_utf8(codes: Codes) -> None:
    bounds = pa.py_buffer(np.array([0, len(codes)], dtype=np.int64))
    text = pa.LargeStringArray.from_buffers(1, bounds, pa.py_buffer(codes))
    text.validate(full=True)


def _check_numbers(codes: Codes) -> None:
    """Raise one of UNFIT for what may be a number to Arrow and is none to Python."""
    after = codes[np.minimum(_found(codes, b"Inf") + 3, len(codes) - 1)]
    if len(_found(codes, b"-NaN")) or np.isin(after, list(b",]} \t\r\n")).any():
        raise msgspec.DecodeError("a number that is none")


def _check_long(line: bytes) -> None:
    """Raise one of UNFIT for what a decoder does not see: columns that nobody reads count too."""
    if line.count(b"[") + line.count(b"{") > MAX_OPENINGS:
        raise msgspec.DecodeError("brackets without end")
    if len(line) > MAX_DIGITS and _num_digits(line) > MAX_DIGITS:
        raise msgspec.DecodeError("digits without end")


def _num_digits(line: bytes) -> int:
    return len(line) - len(line.translate(None, b"0123456789"))


def _found(codes: Codes, word: bytes) -> NDArray[np.int64]:
    """Where the word stands."""
    found = places(codes[: max(len(codes) - len(word) + 1, 0)] == word[0])
    for i in range(1, len(word)):
        found = found[codes[found + i] == word[i]]
    return found
