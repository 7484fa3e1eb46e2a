"""What the columnar path reads of a source's rows: its adapter's paths as typed columns.

Adapter and source → a Layout, or None for layouts that only `mapping.map_row` can read. A row that
does not fit the types of its layout is not wrong; it is one for `map_row`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast, get_args, get_origin

import msgspec

from components.import_data.adapters import ADAPTERS, VALUES
from components.import_data.config import Source
from components.import_data.mapping import field_paths, overrides

COLUMN_TYPES: dict[str, Any] = {
    **dict.fromkeys(VALUES, str | bool | None),
    "id": str | int | None,
    "references": list[str] | str | None,
}
"""Types that a field's own column may have; text otherwise."""


@dataclass(frozen=True)
class Column:
    """A column of the rows, or one element of the list it holds."""

    name: str
    element: int | None = None


@dataclass(frozen=True)
class Layout:
    """How rows of one source become records, column by column."""

    source: str
    constants: Mapping[str, Any]
    """Our field → value of every row whose columns have none."""
    fields: Mapping[str, tuple[Column, ...]]
    """Our field → its columns, of which the first that is not null counts."""
    required: frozenset[str]
    """Fields whose absence makes a row unusable."""
    metadata: Mapping[str, tuple[Column, ...]]
    is_pairs: bool
    row: type[msgspec.Struct]
    """All columns, with the types that the columnar path understands."""
    readers: Mapping[str, Callable[[msgspec.Struct], Any]]
    """Column → what reads its value off a row."""
    kinds: Mapping[str, type]
    """Column → the first of the types it may have: its type where no row has a value."""
    absent: tuple[str, ...]
    """Columns of which no row of the columnar path may have a value."""


def layout_of(source: Source) -> Layout | None:
    """Layout of a source, or None if its rows need `map_row`."""
    adapter = ADAPTERS[source.adapter]
    given = overrides(source)
    paths = {k: v for k, v in field_paths(source, adapter).items() if k not in given}
    metadata = {item.partition("=")[0]: item.partition("=")[2] or item for item in adapter.metadata}
    types: dict[str, Any] = {}
    fields = {name: _columns(path, name, types) for name, path in paths.items()}
    extra = {name: _columns(path, "", types) for name, path in metadata.items()}
    if adapter.reshape is not None or None in (*fields.values(), *extra.values()):
        return None
    present = {name: kind for name, kind in types.items() if kind is not msgspec.UnsetType}
    return Layout(
        source=source.name,
        constants={**adapter.constants, **given},
        fields=cast("Mapping[str, tuple[Column, ...]]", fields),
        required=frozenset(
            name
            for name, path in paths.items()
            if not path.endswith("?") and name not in adapter.constants
        ),
        metadata=cast("Mapping[str, tuple[Column, ...]]", extra),
        is_pairs=adapter.is_pairs,
        row=_struct(types),
        readers={n: attrgetter(_field(i)) for i, n in enumerate(types) if n in present},
        kinds={name: get_origin(get_args(kind)[0]) or str for name, kind in present.items()},
        absent=tuple(types.keys() - present.keys()),
    )


def _columns(path: str, field: str, types: dict[str, Any]) -> tuple[Column, ...] | None:
    """Columns of a path, their types added to `types`; None if it leads where no column does."""
    columns: list[Column] = []
    for option in path.removesuffix("?").split("|"):
        head, dot, rest = option.partition(".")
        if not dot:
            wanted, column = {option: COLUMN_TYPES.get(field, str | None)}, Column(option)
        elif _can_be_element(field) and rest.isascii() and rest.isdigit():
            # A column that is itself called a.0 would win over the element: such rows do not fit.
            wanted = {head: list[str] | None, option: msgspec.UnsetType}
            column = Column(head, int(rest))
        else:
            return None
        if _conflict(types, wanted.items()):
            return None
        types |= wanted
        columns.append(column)
    return tuple(columns)


def _can_be_element(field: str) -> bool:
    return field == "references" or field not in COLUMN_TYPES


def _conflict(types: Mapping[str, Any], wanted: Iterable[tuple[str, Any]]) -> bool:
    return any(types.get(name, kind) != kind for name, kind in wanted)


def _struct(types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A struct with these columns, each null where a row has none."""
    fields = [
        (_field(i), kind, msgspec.UNSET if kind is msgspec.UnsetType else None)
        for i, kind in enumerate(types.values())
    ]
    names = {_field(i): name for i, name in enumerate(types)}
    return msgspec.defstruct("Row", fields, rename=names, gc=False)


def _field(index: int) -> str:
    """Name of a column's field in the struct: columns have names that no field can have."""
    return f"column_{index}"
