"""Generic tables: any nested counts (a data card, metrics) as small tables with headings.

nested dicts of scalars -> tables; what is cut for length says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import escape

from components.write_report.formats import number, short, shortened, words
from equilibrate_core.artifacts import Manifest

MAX_ROWS = 60
MAX_TABLES = 36
"""A data card that build_pairs continued has 33."""
MAX_CELL_BYTES = 400
MAX_NAME_BYTES = 200
TABLES_BYTES = 300_000
"""What all tables of a data card may take of the page, tags included."""
CELL_BYTES = 20
"""Of the tags around a cell, about."""


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def nested_tables(value: Mapping[str, Any], title: str = "") -> list[Table]:
    """Tables of a nested mapping: scalars first, then a matrix or a part for each inner mapping."""
    found = _nested(value, title)
    sizes = accumulate(_page_bytes(table) for table in found)
    shown = min(MAX_TABLES, sum(size <= TABLES_BYTES for size in sizes))
    if len(found) == shown:
        return found
    left_out = ((f"{len(found) - shown} more tables",),)
    return [*found[:shown], Table("Left out", ("see data_card.json",), left_out)]


def counts_table(manifests: Mapping[str, Manifest]) -> Table | None:
    """What became of the rows of each input that counted them."""
    rows: list[tuple[str, ...]] = []
    for name, manifest in manifests.items():
        counts = manifest.counts
        if counts is None:
            continue
        dropped = "; ".join(f"{words(r)} {number(n)}" for r, n in sorted(counts.dropped.items()))
        figures = (number(counts.read), number(counts.kept), number(counts.quarantined))
        rows.append((words(name), *figures, dropped or number(0)))
    header = ("artifact", "read", "kept", "quarantined", "dropped")
    return Table("Rows along the way", header, tuple(rows)) if rows else None


def _nested(value: Mapping[str, Any], title: str) -> list[Table]:
    scalars = {name: item for name, item in value.items() if not isinstance(item, Mapping)}
    found: list[Table] = []
    if scalars:
        rows = [(_name(name), _cell(item)) for name, item in scalars.items()]
        found.append(Table(title, ("figure", "value"), _limited(rows)))
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            inner = f"{title} · {_name(name)}" if title else _name(name)
            found += [_matrix(item, inner)] if _is_matrix(item) else _nested(item, inner)
    return found


def _is_matrix(value: Mapping[str, Any]) -> bool:
    return all(
        isinstance(row, Mapping) and not any(isinstance(cell, Mapping) for cell in row.values())
        for row in value.values()
    )


def _matrix(value: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    columns = list(dict.fromkeys(name for row in value.values() for name in row))
    rows = [
        (_name(n), *(_cell(row.get(column, 0)) for column in columns)) for n, row in value.items()
    ]
    return Table(title, ("", *(_name(column) for column in columns)), _limited(rows))


def _limited(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    if len(rows) <= MAX_ROWS:
        return tuple(rows)
    blanks = ("",) * (len(rows[0]) - 1)
    return (*rows[:MAX_ROWS], (f"… {len(rows) - MAX_ROWS} more rows", *blanks))


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int | float):
        return short(value)
    shown = ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
    return shortened(shown, MAX_CELL_BYTES)


def _name(name: str) -> str:
    return shortened(words(name), MAX_NAME_BYTES)


def _page_bytes(table: Table) -> int:
    cells = [2 * table.title, *table.header, *(cell for row in table.rows for cell in row)]
    return sum(CELL_BYTES + len(escape(cell).encode()) for cell in cells)
