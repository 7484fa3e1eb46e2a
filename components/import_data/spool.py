"""Lists on disk: values or tables appended now, read back in order later."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa


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
    """Tables of one schema in a temporary file of their own; use as a context manager."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._writer = pa.ipc.new_stream(path, schema)

    def __enter__(self) -> "TableSpool":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def append(self, table: pa.Table) -> None:
        """Add a table; it comes back as one."""
        if table.num_rows:
            self._writer.write_table(table.combine_chunks())

    def __iter__(self) -> Iterator[pa.Table]:
        """All tables, in the order they were added; nothing can be added any more."""
        self._writer.close()
        with pa.memory_map(str(self._path)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
