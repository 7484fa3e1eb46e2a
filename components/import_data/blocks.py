"""Blocks of rows: mapped ahead of their use, by columns where that is possible."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from components.import_data.adapters import ADAPTERS
from components.import_data.columns import map_columns
from components.import_data.config import Source
from components.import_data.layouts import Layout, layout_of
from components.import_data.mapped_rows import MappedRows, from_records, merged
from components.import_data.mapping import Mapped, map_row
from components.import_data.rows import AnyRow, RowError, Rows, parsed

NUM_AHEAD = 2
"""Blocks mapped at the same time; the columnar steps leave Python's lock to others."""
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Block:
    """Some rows of a source and what became of each: a record, or the reason why not."""

    rows: Rows
    mapped: MappedRows
    problems: dict[int, str]
    """Place of a row that cannot be used → the reason, in one line."""


def mapped_blocks(source: Source, blocks: Iterable[Rows]) -> Iterator[Block]:
    """The rows of a source, mapped; all of them stay in order."""
    layout = layout_of(source)
    yield from _ahead(lambda rows: map_block(source, layout, rows), blocks)


def map_block(source: Source, layout: Layout | None, rows: Rows) -> Block:
    """Map rows by columns where there is a layout and they fit it, the others one by one."""
    by_columns, left = map_columns(layout, rows) if layout else (None, range(len(rows)))
    records: dict[int, Mapped] = {}
    problems: dict[int, str] = {}
    for place in left:
        try:
            records[place] = _record(source, rows[place])
        except (RowError, ValidationError) as error:
            problems[place] = one_line(str(error))
    one_by_one = from_records(records)
    return Block(rows, merged(by_columns, one_by_one) if by_columns else one_by_one, problems)


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())


def _record(source: Source, row: AnyRow) -> Mapped:
    raw = parsed(row)
    if raw.value is None:
        raise RowError(raw.problem)
    return map_row(source, ADAPTERS[source.adapter], raw.value)


def _ahead(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """Results in order, of which a few are worked on while the earlier ones are used."""
    with ThreadPoolExecutor(NUM_AHEAD) as pool:
        waiting: deque[Future[ResultT]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > NUM_AHEAD:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
