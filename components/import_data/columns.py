"""Rows to records by columns: what `mapping.map_row` gives, for the rows that hold no surprise.

Rows of a block → MappedRows, and the places of the rows left to `map_row`: those that do not fit
the layout's types, miss something, or hold a blank or unknown value. Nothing is judged here.
"""

from collections.abc import Iterable
from itertools import compress
from operator import attrgetter, eq
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from components.import_data.adapters import VALUES
from components.import_data.decoding import fitting_rows
from components.import_data.identities import Texts, normal_texts, pair_ids, prompt_ids
from components.import_data.layouts import Column, Layout
from components.import_data.ledgers import Labels
from components.import_data.mapped_rows import MESSAGES, PAIRS, PROMPTS, MappedRows, from_records
from components.import_data.rows import Rows

Values = list[Any]


def map_columns(layout: Layout, rows: Rows) -> tuple[MappedRows, list[int]]:
    """The rows that can be mapped by columns, and the places of all others."""
    places, fitting = fitting_rows(layout.row, rows)
    if not fitting:
        return from_records({}), list(range(len(rows)))
    mapped = _Table(layout, places, fitting).mapped()
    if len(mapped.places) == len(rows):
        return mapped, []
    return mapped, sorted(set(range(len(rows))).difference(mapped.places))


class _Table:
    """The fitting rows of a block, and which of them turned out to hold a surprise after all."""

    def __init__(self, layout: Layout, places: list[int], rows: list[msgspec.Struct]) -> None:
        self._layout, self._places, self._rows = layout, places, rows
        self._attributes = dict(zip(layout.columns, layout.row.__struct_fields__, strict=True))
        self._is_plain = np.ones(len(places), dtype=bool)

    def mapped(self) -> MappedRows:
        """The rows without surprise, as records."""
        texts, normal = self._prompt_texts()
        ids = prompt_ids(normal)
        labels = self._labels()
        prompts = {
            "id": pa.array(ids, pa.string()),
            "messages": _user_turns(texts),
            "source": pa.repeat(pa.scalar(self._layout.source), len(ids)),
        }
        for name, values in zip(Labels._fields, labels, strict=True):
            prompts[name] = _array(values, PROMPTS.field(name).type)
        table = pa.table(prompts, schema=PROMPTS)
        pairs = self._pairs(ids, table) if self._layout.is_pairs else PAIRS.empty_table()
        mapped = MappedRows(self._places, self._source_ids(), _together(labels), table, pairs)
        return mapped if self._is_plain.all() else self._plain(mapped)

    def _plain(self, mapped: MappedRows) -> MappedRows:
        is_plain = self._is_plain
        pairs = mapped.pairs
        return MappedRows(
            places=list(compress(mapped.places, is_plain)),
            source_ids=list(compress(mapped.source_ids, is_plain)),
            labels=list(compress(mapped.labels, is_plain)),
            prompts=mapped.prompts.filter(pa.array(is_plain)),
            pairs=pairs.filter(pa.array(is_plain)) if self._layout.is_pairs else pairs,
        )

    def _leave(self, is_odd: Iterable[bool]) -> None:
        """Leave these rows to `map_row`."""
        self._is_plain &= ~np.fromiter(is_odd, dtype=bool, count=len(self._places))

    def _prompt_texts(self) -> tuple[pa.StringArray, Texts]:
        column, normal = self._texts("prompt")
        contexts = self._field("context")
        if not any(contexts):
            return column, normal
        pairs = zip(column.to_pylist(), contexts, strict=True)
        joined = [f"{a}\n\n{b}" if b else a for a, b in pairs]
        column = pa.array(joined, pa.string())
        return column, normal_texts(joined, column)

    def _texts(self, name: str) -> tuple[pa.StringArray, Texts]:
        """A text that every row must have, as it is and normalised."""
        texts = self._field(name)
        column = pa.array(texts, pa.string())
        normal = normal_texts(texts, column)
        if not all(normal):
            self._leave(not text for text in normal)
        return column, normal

    def _pairs(self, prompt_ids: list[str], prompts: pa.Table) -> pa.Table:
        (chosen, normal_chosen), (rejected, normal_rejected) = map(
            self._texts, ("chosen", "rejected")
        )
        is_same = list(map(eq, normal_chosen, normal_rejected))
        if any(is_same):
            self._leave(is_same)
        dimensions = self._closed("dimension")
        columns = {
            "id": pair_ids(prompt_ids, normal_chosen, normal_rejected, dimensions),
            "prompt_id": prompts["id"],
            "messages": prompts["messages"],
            "chosen": chosen,
            "rejected": rejected,
            "chosen_is_safe": _array(self._closed("chosen_is_safe"), pa.bool_()),
            "rejected_is_safe": _array(self._closed("rejected_is_safe"), pa.bool_()),
            "dimension": _array(dimensions, pa.string()),
            "category": prompts["gold_category"],
            "source": prompts["source"],
            "row": self._places,
        }
        return pa.table(columns, schema=PAIRS)

    def _labels(self) -> tuple[Values, ...]:
        """The columns of `Labels`."""
        return (
            self._closed("category"),
            self._closed("label"),
            self._field("suite"),
            self._references(),
            self._metadata(),
        )

    def _closed(self, name: str) -> Values:
        """What the values of a closed field mean; the constant where a row has none."""
        values = self._field(name)
        if name not in self._layout.fields:
            return values
        meanings = VALUES[name]
        flags = {flag: flag for flag in meanings.values() if isinstance(flag, bool)}
        known = {None: None, **meanings, **flags}
        if unknown := set(values).difference(known):
            self._leave(value in unknown for value in values)
        return list(map(known.get, values))

    def _references(self) -> list[tuple[str, ...]]:
        values = self._field("references")
        if not any(values):
            return [()] * len(values)
        return [self._reference(i, value) for i, value in enumerate(values)]

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
        values = self._field("id")
        if _is_absent(values):
            return values
        return [None if value is None else str(value) for value in values]

    def _field(self, name: str) -> Values:
        """Values of a field before their meaning is known, the constant where a row has none."""
        layout = self._layout
        constant = layout.constants.get(name)
        columns = layout.fields.get(name)
        if columns is None:
            return [constant] * len(self._places)
        found = [self._column(column) for column in columns]
        if name in layout.required:
            values = _first(found)
            if not all(values):
                self._leave(value is None for value in values)
            return values
        found = [_without_empty(values) for values in found if not _is_absent(values)]
        if not found:
            return [constant] * len(self._places)
        values = _first(found)
        if name not in VALUES:  # where a blank is as unknown as any other
            self._leave(isinstance(value, str) and value.isspace() for value in values)
        return values if all(values) else [constant if v is None else v for v in values]

    def _column(self, column: Column) -> Values:
        values = map(attrgetter(self._attributes[column.name]), self._rows)
        element = column.element
        if element is None:
            return list(values)
        return [v[element] if v is not None and element < len(v) else None for v in values]


def _first(columns: list[Values]) -> Values:
    """The first value of each row that is not null."""
    first, *others = columns
    for other in others:
        first = [b if a is None else a for a, b in zip(first, other, strict=True)]
    return first


def _is_absent(values: Values) -> bool:
    """Whether no row has a value; told at the first that has one."""
    return not any(values) and values.count(None) == len(values)


def _without_empty(values: Values) -> Values:
    return values if all(values) else [None if value == "" else value for value in values]


def _together(columns: tuple[Values, ...]) -> list[Labels]:
    """Labels row by row; where closed fields alone differ, rows with the same share one object."""
    *closed, references, metadata = columns
    if not (_all_same(references) and _all_same(metadata)):
        return list(map(Labels._make, zip(*columns, strict=True)))
    keys = list(zip(*closed, strict=True))
    labels = {key: Labels._make((*key, references[0], metadata[0])) for key in set(keys)}
    return list(map(labels.__getitem__, keys))


def _array(values: Values, kind: pa.DataType) -> pa.Array:
    """The values as an Arrow array; faster where all rows have the same."""
    if _all_same(values):
        return pa.array(values[:1], kind).take(np.zeros(len(values), dtype=np.int32))
    return pa.array(values, kind)


def _all_same(values: Values) -> bool:
    """Whether all rows have the same value."""
    return values.count(values[0]) == len(values)


def _user_turns(texts: pa.Array) -> pa.Array:
    """Conversations of one user turn each."""
    roles = pa.repeat(pa.scalar("user"), len(texts))
    turns = pa.StructArray.from_arrays([roles, texts], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), turns, MESSAGES)
