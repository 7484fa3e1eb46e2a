"""A list on disk: JSON values appended now, read back in order later."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Spool:
    """Values in a temporary file of its own; use as a context manager."""

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
