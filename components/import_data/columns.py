"""Rows to records by columns: what `mapping.map_row` gives, for the rows that hold no surprise.

Rows of a block → MappedRows, and the places of the rows left to `map_row`: those that do not fit
the layout's types, miss something, or hold a blank or unknown value. Nothing is judged here.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import compress
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from components.import_data.adapters import VALUES
from components.import_data.identities import identity, pair_ids, prompt_ids
from components.import_data.layouts import Column, Layout
from components.import_data.ledgers import Labels
from components.import_data.mapped_rows import MESSAGES, PAIRS, PROMPTS, MappedRows, from_records
from components.import_data.rows import AnyRow, JsonLines, RawRow, Rows

Values = list[Any]
Decoder = msgspec.json.Decoder[Any]
LABEL_FIELDS = {"category", "label", "suite", "references", "language"}
MAX_DIGITS = 4300
"""From here on Python refuses to read an integer, in whatever column it stands."""


UNFIT = (msgspec.MsgspecError, UnicodeError, RecursionError)


def map_columns(layout: Layout, rows: Rows) -> tuple[MappedRows, list[int]]:
    """The rows that can be mapped by columns, and the places of all others."""
    fitting = _fitting(msgspec.json.Decoder(layout.row), rows)
    if not fitting:
        return from_records({}), list(range(len(rows)))
    mapped = _Table(layout, list(fitting), list(fitting.values())).mapped()
    return mapped, sorted(set(range(len(rows))).difference(mapped.places))


def _fitting(decoder: Decoder, rows: Rows) -> dict[int, msgspec.Struct]:
    """Place → columns of the rows that fit; all lines at once where none of them is odd."""
    if isinstance(rows, JsonLines):
        with suppress(*UNFIT):
            return dict(enumerate(_decoded_lines(decoder, rows.lines)))
    decoded = ((place, _decoded(decoder, row)) for place, row in enumerate(rows))
    return {place: columns for place, columns in decoded if columns is not None}


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
    for line in lines:
        if not line.isascii():
            line.decode()  # columns that nobody reads count too
    for line in lines:
        if len(line) > MAX_DIGITS and _num_digits(line) > MAX_DIGITS:
            raise msgspec.DecodeError("digits without end")
    return list(map(decoder.decode, lines))


def _num_digits(line: bytes) -> int:
    return len(line) - len(line.translate(None, b"0123456789"))


class _Table:
    """The fitting rows of a block, and which of them turned out to hold a surprise after all."""

    def __init__(self, layout: Layout, places: list[int], rows: list[msgspec.Struct]) -> None:
        self._layout, self._places = layout, places
        fields = zip(layout.columns, layout.row.__struct_fields__, strict=True)
        self._columns = {name: list(map(attrgetter(field), rows)) for name, field in fields}
        self._is_plain = np.ones(len(places), dtype=bool)

    def mapped(self) -> MappedRows:
        """The rows without surprise, as records."""
        layout, number = self._layout, len(self._places)
        texts, identities = self._prompt_texts()
        ids = prompt_ids(identities)
        source = pa.repeat(pa.scalar(layout.source), number)
        prompts = pa.Table.from_arrays([pa.array(ids), _user_turns(texts), source], schema=PROMPTS)
        labels = self._labels()
        source_ids = self._source_ids()
        pairs = PAIRS.empty_table()
        if layout.is_pairs:
            pairs = self._pairs(prompts, [each.gold_category for each in labels])
        is_plain = self._is_plain
        if not is_plain.all():
            prompts = prompts.filter(pa.array(is_plain))
            pairs = pairs.filter(pa.array(is_plain)) if layout.is_pairs else pairs
        return MappedRows(
            places=list(compress(self._places, is_plain)),
            source_ids=list(compress(source_ids, is_plain)),
            labels=list(compress(labels, is_plain)),
            prompts=prompts,
            pairs=pairs,
        )

    def _prompt_texts(self) -> tuple[pl.Series, pl.Series]:
        texts, identities = self._texts("prompt")
        contexts = self._field("context")
        if not any(contexts):
            return texts, identities
        pairs = zip(texts, contexts, strict=True)
        joined = pl.Series([f"{a}\n\n{b}" if b else a for a, b in pairs], dtype=pl.String)
        return joined, identity(joined)

    def _texts(self, name: str) -> tuple[pl.Series, pl.Series]:
        """A text that every row must have, and its identity."""
        texts = pl.Series(self._field(name), dtype=pl.String)
        identities = identity(texts)
        self._is_plain &= (identities != "").fill_null(value=False).to_numpy()
        return texts, identities

    def _pairs(self, prompts: pa.Table, categories: Values) -> pa.Table:
        ids, sources = prompts["id"], prompts["source"]
        (chosen, chosen_identities), (rejected, rejected_identities) = map(
            self._texts, ("chosen", "rejected")
        )
        self._is_plain &= (
            (chosen_identities != rejected_identities).fill_null(value=False).to_numpy()
        )
        dimensions = self._closed("dimension")
        columns = {
            "id": pair_ids(ids.to_pylist(), chosen_identities, rejected_identities, dimensions),
            "prompt_id": ids,
            "messages": prompts["messages"],
            "chosen": _arrow(chosen),
            "rejected": _arrow(rejected),
            "chosen_is_safe": self._closed("chosen_is_safe"),
            "rejected_is_safe": self._closed("rejected_is_safe"),
            "dimension": dimensions,
            "category": categories,
            "source": sources,
            "row": self._places,
        }
        return pa.table(columns, schema=PAIRS)

    def _labels(self) -> list[Labels]:
        columns = (
            self._closed("category"),
            self._closed("label"),
            self._field("suite"),
            self._references(),
            self._metadata(),
        )
        if not (self._layout.metadata or self._layout.fields.keys() & LABEL_FIELDS):
            return [Labels._make(column[0] for column in columns)] * len(self._places)
        return list(map(Labels._make, zip(*columns, strict=True)))

    def _closed(self, name: str) -> Values:
        """What the values of a closed field mean; the constant where a row has none."""
        if name not in self._layout.fields:
            return self._field(name)
        meanings = VALUES[name]
        flags = {flag: flag for flag in meanings.values() if isinstance(flag, bool)}
        known = {None: None, **meanings, **flags}
        values = self._field(name)
        unknown = [value not in known for value in values]
        self._is_plain &= ~np.array(unknown)
        return [known.get(value) for value in values]

    def _references(self) -> list[tuple[str, ...]]:
        return [self._reference(i, value) for i, value in enumerate(self._field("references"))]

    def _reference(self, index: int, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        items = [item for item in (value if isinstance(value, list) else [value]) if item != ""]
        if any(item.isspace() for item in items):
            self._is_plain[index] = False
        return tuple(items)

    def _metadata(self) -> list[dict[str, str]]:
        """The metadata of each row; what is blank in a row is not in its metadata."""
        columns = {"language": self._field("language")}
        for name, (column,) in self._layout.metadata.items():
            columns[name] = self._column(column)
        columns = {name: values for name, values in columns.items() if any(values)}
        if not columns:
            return [{}] * len(self._places)
        return [
            {
                name: value
                for name, value in zip(columns, values, strict=True)
                if value and not value.isspace()
            }
            for values in zip(*columns.values(), strict=True)
        ]

    def _source_ids(self) -> list[str | None]:
        return [None if value is None else str(value) for value in self._field("id")]

    def _field(self, name: str) -> Values:
        """Values of a field before their meaning is known, the constant where a row has none."""
        layout = self._layout
        constant = layout.constants.get(name)
        columns = layout.fields.get(name)
        if columns is None:
            return [constant] * len(self._places)
        if name in layout.required:
            values = _first([self._column(column) for column in columns])
            self._is_plain &= np.array([value is not None for value in values])
            return values
        values = _first([_without_empty(self._column(column)) for column in columns])
        self._is_plain &= ~np.array([isinstance(v, str) and v.isspace() for v in values])
        return [constant if value is None else value for value in values]

    def _column(self, column: Column) -> Values:
        values, element = self._columns[column.name], column.element
        if element is None:
            return values
        return [v[element] if v is not None and element < len(v) else None for v in values]


def _first(columns: list[Values]) -> Values:
    """The first value of each row that is not null."""
    first, *others = columns
    for other in others:
        first = [b if a is None else a for a, b in zip(first, other, strict=True)]
    return first


def _without_empty(values: Values) -> Values:
    return [None if value == "" else value for value in values]


def _user_turns(texts: pl.Series) -> pa.Array:
    """Conversations of one user turn each."""
    roles = pa.repeat(pa.scalar("user"), len(texts))
    turns = pa.StructArray.from_arrays([roles, _arrow(texts)], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), turns, MESSAGES)


def _arrow(texts: pl.Series) -> pa.Array:
    return texts.to_arrow().cast(pa.string())
