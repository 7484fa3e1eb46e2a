"""Lists on disk: values or tables appended now, read back in order later."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from equilibrate_core.records import Record
from equilibrate_core.tables import TableWriter, arrow_schema


class Spool:
    """JSON values in a temporary file of their own; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+", encoding="utf-8")
        self._length = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._length

    def append(self, value: Any) -> None:
        """Add one JSON value."""
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._length += 1

    def __iter__(self) -> Iterator[Any]:
        """All values, in the order they were added."""
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)


class TableSpool:
    """Tables of one schema in a temporary file of their own; use as a context manager.

    Their dataset's files are written ahead, beside the reading, for the case that nothing that
    comes later changes their rows.
    """

    def __init__(self, path: Path, schema: pa.Schema, record: type[Record]) -> None:
        self._path = path
        self._writer = pa.ipc.new_stream(path, schema)
        folder = path.with_name(f"{path.name}-ahead")
        folder.mkdir()
        self._ahead = TableWriter(folder, record)
        self._names = arrow_schema(record).names
        self._is_ahead = True
        self._ready: list[Path] | None = None
        self._num_yielded = self._changed_until = 0.0

    def __enter__(self) -> "TableSpool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        if self._ready is None:
            self._ahead.finish(whole=False)

    def append(self, table: pa.Table) -> None:
        """Add a table; it comes back in as many parts as it has chunks."""
        if not table.num_rows:
            return
        self._writer.write_table(table)
        if self._is_ahead:
            self._ahead.write(table.select(self._names))

    def stop_ahead(self) -> None:
        """Write no more files ahead: most of them will change."""
        self._is_ahead = False

    def changed(self, *, from_here: bool = False) -> None:
        """The table that was yielded last has changed, or the places of all rows from here on."""
        until = float("inf") if from_here else self._num_yielded
        self._changed_until = max(self._changed_until, until)

    def ready_file(self, index: int, first_row: int) -> Path | None:
        """The file that was written ahead, if no table of its rows has changed."""
        if self._ready is None or index >= len(self._ready) or self._changed_until > first_row:
            return None
        return self._ready[index]

    def __iter__(self) -> Iterator[pa.Table]:
        """All tables, in the order they were added; nothing can be added any more."""
        if self._ready is None:
            self._writer.close()
            self._ready = self._ahead.finish(whole=self._is_ahead)
        self._num_yielded = 0
        with pa.memory_map(str(self._path)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                self._num_yielded += batch.num_rows
                yield pa.Table.from_batches([batch])
