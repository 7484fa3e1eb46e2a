"""Rows to records by columns: what `mapping.map_row` gives, for the rows that hold no surprise.

Rows of a block → MappedRows, and the places of the rows left to `map_row`: those that do not fit
the layout's types, miss something, or hold a blank or unknown value. Nothing is judged here.
Values stay in Arrow's columns, whose functions leave Python's lock to other threads.
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.import_data.adapters import VALUES
from components.import_data.decoding import Columns, fitting_rows
from components.import_data.identities import normal_texts, pair_ids, prompt_ids
from components.import_data.layouts import Column, Layout
from components.import_data.mapped_rows import (
    MESSAGES,
    PAIRS,
    PROMPTS,
    MappedRows,
    from_records,
    selected,
)
from components.import_data.rows import Rows

REFERENCES, METADATA = (PROMPTS.field(name).type for name in ("references", "metadata"))


def map_columns(layout: Layout, rows: Rows) -> tuple[MappedRows, list[int]]:
    """The rows that can be mapped by columns, and the places of all others."""
    places, columns = fitting_rows(layout, rows)
    if not len(places):
        return from_records({}), list(range(len(rows)))
    mapped = _Table(layout, places, columns).mapped()
    if len(mapped.places) == len(rows):
        return mapped, []
    return mapped, sorted(set(range(len(rows))).difference(mapped.places))


class _Table:
    """The fitting rows of a block, and which of them turned out to hold a surprise after all."""

    def __init__(self, layout: Layout, places: Sequence[int], columns: Columns) -> None:
        self._layout, self._places, self._columns = layout, places, columns
        self._is_plain = np.ones(len(places), dtype=bool)

    def mapped(self) -> MappedRows:
        """The rows without surprise, as records."""
        texts, normal = self._prompt_texts()
        columns = {
            "id": prompt_ids(normal),
            "messages": _user_turns(texts),
            "source": pa.repeat(pa.scalar(self._layout.source), len(self._places)),
            "gold_category": self._closed("category"),
            "suite": self._field("suite"),
            "is_harmful": self._closed("label"),
            "references": self._references(),
            "metadata": self._metadata(),
        }
        prompts = pa.table(columns, schema=PROMPTS)
        pairs = self._pairs(prompts) if self._layout.is_pairs else PAIRS.empty_table()
        mapped = MappedRows(self._places, self._source_ids(), prompts, pairs)
        return mapped if self._is_plain.all() else self._plain(mapped)

    def _plain(self, mapped: MappedRows) -> MappedRows:
        is_plain = self._is_plain
        pairs = mapped.pairs
        return MappedRows(
            places=list(compress(mapped.places, is_plain)),
            source_ids=list(compress(mapped.source_ids, is_plain)),
            prompts=selected(mapped.prompts, is_plain),
            pairs=selected(pairs, is_plain) if self._layout.is_pairs else pairs,
        )

    def _leave(self, is_odd: pa.Array) -> None:
        """Leave these rows to `map_row`; a null is not odd."""
        if is_odd.true_count:
            self._is_plain &= ~is_odd.fill_null(fill_value=False).to_numpy(zero_copy_only=False)

    def _pairs(self, prompts: pa.Table) -> pa.Table:
        ids = prompts["id"].chunk(0)
        (chosen, normal_chosen), (rejected, normal_rejected) = map(
            self._texts, ("chosen", "rejected")
        )
        self._leave(pc.equal(normal_chosen, normal_rejected))
        dimensions = self._closed("dimension").fill_null("")
        columns = {
            "id": pair_ids(ids, normal_chosen, normal_rejected, dimensions),
            "prompt_id": ids,
            "messages": prompts["messages"],
            "chosen": chosen,
            "rejected": rejected,
            "chosen_is_safe": self._closed("chosen_is_safe"),
            "rejected_is_safe": self._closed("rejected_is_safe"),
            "dimension": dimensions,
            "category": prompts["gold_category"],
            "source": prompts["source"],
            "row": np.asarray(self._places, dtype=np.int64),
        }
        return pa.table(columns, schema=PAIRS)

    def _prompt_texts(self) -> tuple[pa.StringArray, pa.StringArray]:
        texts, normal = self._texts("prompt")
        contexts = self._field("context")
        if _is_absent(contexts):
            return texts, normal
        texts = pc.coalesce(pc.binary_join_element_wise(texts, contexts, "\n\n"), texts)
        return texts, normal_texts(texts)

    def _texts(self, name: str) -> tuple[pa.StringArray, pa.StringArray]:
        """A text that every row must have, as it is and normalised; empty in a row that is left."""
        texts = self._field(name)
        if texts.null_count:
            texts = texts.fill_null("")
        normal = normal_texts(texts)
        self._leave(pc.equal(normal, ""))
        return texts, normal

    def _source_ids(self) -> Sequence[str | None]:
        return self._field("id").to_pylist()

    def _closed(self, name: str) -> pa.Array:
        """What the values of a closed field mean."""
        meanings = VALUES[name]
        flags = {flag: flag for flag in meanings.values() if isinstance(flag, bool)}
        kind = pa.bool_() if flags else pa.string()
        known = {"": None, **meanings, **flags}
        columns = [self._meanings(values, known, kind) for values in self._found(name)]
        return self._first(name, columns, kind)

    def _meanings(
        self, values: pa.Array, known: Mapping[str | bool, Any], kind: pa.DataType
    ) -> pa.Array:
        if _is_absent(values):
            return pa.nulls(len(values), kind)
        encoded = values.dictionary_encode()
        different = encoded.dictionary.to_pylist()
        unknown = [place for place, value in enumerate(different) if value not in known]
        if unknown:
            self._leave(pc.is_in(encoded.indices, pa.array(unknown, encoded.indices.type)))
        return pa.array(map(known.get, different), kind).take(encoded.indices)

    def _field(self, name: str) -> pa.StringArray:
        """A field's texts."""
        columns = self._found(name)
        if name not in self._layout.required:
            columns = [self._without_empty(values) for values in columns if not _is_absent(values)]
        return self._first(name, columns, pa.string())

    def _without_empty(self, values: pa.StringArray) -> pa.StringArray:
        """The same texts, null for an empty one; another one that is blank is a surprise."""
        is_empty = pc.equal(values, "")
        self._leave(pc.and_not(pc.equal(normal_texts(values), ""), is_empty))
        return pc.if_else(is_empty, None, values) if is_empty.true_count else values

    def _first(self, name: str, columns: list[pa.Array], kind: pa.DataType) -> pa.Array:
        """The first value of each row that is not null, or the constant, where it may lack one."""
        if name not in self._layout.required:
            constant = pa.scalar(self._layout.constants.get(name), kind)
            return pc.coalesce(*columns, pa.repeat(constant, len(self._places)))
        values = pc.coalesce(*columns)
        self._leave(values.is_null())
        return values

    def _references(self) -> pa.ListArray:
        columns = [values.to_pylist() for values in self._found("references")]
        if not any(map(any, columns)):
            return pa.ListArray.from_arrays(self._no_items(), pa.array([], pa.string()))
        rows = zip(*columns, strict=True)
        return pa.array([self._reference(i, row) for i, row in enumerate(rows)], REFERENCES)

    def _reference(self, index: int, values: Sequence[list[str] | str | None]) -> list[str]:
        value = next((value for value in values if value is not None and value != ""), [])
        items = [item for item in (value if isinstance(value, list) else [value]) if item != ""]
        if any(item is None or item.isspace() for item in items):
            self._is_plain[index] = False
        return items

    def _metadata(self) -> pa.MapArray:
        """The metadata of each row; what is blank in a row is not in its metadata."""
        columns = {"language": self._field("language")}
        for name, (column,) in self._layout.metadata.items():
            columns[name] = self._column(column)
        columns = {k: v.to_pylist() for k, v in columns.items() if not _is_absent(v)}
        if not columns:
            empty = pa.array([], pa.string())
            return pa.MapArray.from_arrays(self._no_items(), empty, empty)
        rows = [
            [(k, v) for k, v in zip(columns, values, strict=True) if v and not v.isspace()]
            for values in zip(*columns.values(), strict=True)
        ]
        return pa.array(rows, METADATA)

    def _no_items(self) -> pa.Array:
        """Offsets of lists that are all empty."""
        return pa.array(np.zeros(len(self._places) + 1, dtype=np.int32))

    def _found(self, name: str) -> list[pa.Array]:
        """Columns that may hold a field."""
        return [self._column(column) for column in self._layout.fields.get(name, ())]

    def _column(self, column: Column) -> pa.Array:
        values = self._columns[column.name]
        return values if column.element is None else _elements(values, column.element)


def _is_absent(values: pa.Array) -> bool:
    """Whether no row has a value."""
    return values.null_count == len(values)


def _elements(lists: pa.ListArray, place: int) -> pa.Array:
    """The element of each list at this place, null where it has none."""
    is_there = np.asarray(lists.value_lengths().fill_null(0)) > place
    places = np.where(is_there, np.asarray(lists.offsets)[:-1] + place, 0)
    return lists.values.take(pa.array(places, mask=~is_there))


def _user_turns(texts: pa.StringArray) -> pa.ListArray:
    """Conversations of one user turn each."""
    roles = pa.repeat(pa.scalar("user"), len(texts))
    turns = pa.StructArray.from_arrays([roles, texts], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), turns, MESSAGES)
