"""Small JSON records at an s3:// URI or a path, whole or absent."""

import json
from pathlib import Path
from typing import Any

from equilibrate_core.artifacts import write_json
from equilibrate_core.errors import DataError, StorageError
from equilibrate_core.s3 import exists, put_if_absent, read_object, replace_if_match
from equilibrate_core.s3_uris import is_s3

MAX_WRITES = 5


def read_json_object(uri: str) -> dict[str, Any] | None:
    """The record at a URI, or None when there is none. Raises DataError when it is no record."""
    if is_s3(uri):
        text = read_object(uri)[0] if exists(uri) else None
    else:
        path = Path(uri)
        text = path.read_bytes() if path.is_file() else None
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{uri}: not a JSON record: {error}; remove it") from error
    if not isinstance(value, dict):
        raise DataError(f"{uri}: not a JSON record: expected an object; remove it")
    return value


def write_json_object(uri: str, value: dict[str, Any]) -> None:
    """Write a record, replacing what was there."""
    if not is_s3(uri):
        write_json(Path(uri), value)
        return
    content = (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    for _ in range(MAX_WRITES):
        if put_if_absent(uri, content) is not None:
            return
        etag = read_object(uri)[1]
        if replace_if_match(uri, content, etag) is not None:
            return
    raise StorageError(f"{uri}: others kept writing it during {MAX_WRITES} tries; try again later")
