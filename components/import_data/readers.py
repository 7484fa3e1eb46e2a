"""From one file to its rows: JSONL, JSON array, CSV and Parquet, plain or gzipped.

A bad row becomes a RawRow with a problem; a file that is not what its name says is a DataError.
All but JSON arrays are streamed, in blocks of rows.
"""

import gzip
import json
import shutil
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.import_data.csv_records import csv_rows
from components.import_data.lines import Lines, blocks_of_lines
from components.import_data.rows import (
    BAD_UTF8,
    BYTES_PER_BLOCK,
    ROWS_PER_BLOCK,
    JsonLines,
    RawRow,
    Rows,
    as_object,
    in_blocks,
    is_unicode,
)
from equilibrate_core.errors import DataError

BOM = b"\xef\xbb\xbf"
MIN_LINES_TO_JUDGE = 3
"""A file with at least so many lines, none of which is JSON, is no JSONL file."""
MAGIC = {
    b"PAR1": "Parquet",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x89PNG": "an image",
    b"%PDF": "PDF",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def is_readable(name: str) -> bool:
    """Whether a file name has a suffix that `read_file` knows."""
    return _suffix(name) in READERS


def read_file(path: Path, name: str) -> Iterator[Rows]:
    """Rows of a file, in order, in blocks; `name` is what locations and messages call it."""
    reader = READERS.get(_suffix(name))
    if reader is None:
        known = ", ".join(READERS)
        raise DataError(f"{name}: unknown kind of file; expected {known}, each also with .gz")
    with file_errors(name):
        if not name.lower().endswith(".gz"):
            yield from reader(path, name)
            return
        with TemporaryDirectory(prefix="import_data-") as folder:
            plain = Path(folder) / "plain"
            with gzip.open(path) as packed, plain.open("wb") as file:
                shutil.copyfileobj(packed, file)
            yield from reader(plain, name)


def _read_jsonl(path: Path, name: str) -> Iterator[Rows]:
    _refuse_binary(path, name)
    num_read, num_lines, is_jsonl = 0, 0, False
    with path.open("rb") as file:
        if file.read(len(BOM)) != BOM:
            file.seek(0)
        for lines in blocks_of_lines(file, BYTES_PER_BLOCK, ROWS_PER_BLOCK):
            if not num_read and lines[0].strip() == b"[":
                raise DataError(f"{name}: holds a JSON array, not JSON lines; name it .json")
            numbers = range(num_read + 1, num_read + len(lines) + 1)
            num_read += len(lines)
            rows = _without_blank(name, numbers, lines)
            num_lines += len(rows)
            is_jsonl = is_jsonl or any(row.parsed().value is not None for row in rows)
            if rows:
                yield rows
    if num_lines >= MIN_LINES_TO_JUDGE and not is_jsonl:
        raise DataError(f"{name}: not one of its {num_lines} lines is a JSON object; is it JSONL?")


def _without_blank(name: str, numbers: Sequence[int], lines: Lines) -> JsonLines:
    if lines.are_objects():
        return JsonLines(name, numbers, lines)
    kept = [(n, line) for n, line in zip(numbers, lines, strict=True) if not line.isspace()]
    return JsonLines(name, [number for number, _ in kept], [line for _, line in kept])


def _read_json(path: Path, name: str) -> Iterator[Rows]:
    _refuse_binary(path, name)
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if text.lstrip().startswith("{"):  # JSON lines often go by this name
        yield from _read_jsonl(path, name)
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}:{error.lineno}:{error.colno}: broken JSON: {error.msg}; the array cannot be "
            "read past this position"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: broken JSON: {error}") from error
    if not isinstance(values, list):
        raise DataError(f"{name}: expected a JSON array of rows, found {type(values).__name__}")
    yield from in_blocks(_array_rows(values, name, text))


def _array_rows(values: list[Any], name: str, text: str) -> Iterator[RawRow]:
    clean, num_bytes = is_unicode(text), len(text) // max(len(values), 1)
    for index, value in enumerate(values):
        location = f"{name}[{index}]"
        if clean or is_unicode(json.dumps(value, ensure_ascii=False)):
            yield as_object(value, location, None, num_bytes)
        else:
            yield RawRow(location, None, json.dumps(value, ensure_ascii=False), BAD_UTF8)


def _read_csv(path: Path, name: str) -> Iterator[Rows]:
    _refuse_binary(path, name)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from in_blocks(csv_rows(file, name))


def _read_parquet(path: Path, name: str) -> Iterator[Rows]:
    return in_blocks(_parquet_rows(path, name))


def _parquet_rows(path: Path, name: str) -> Iterator[RawRow]:
    index = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            num_bytes = batch.nbytes // max(batch.num_rows, 1)
            for value in _values(batch, max(BYTES_PER_BLOCK // max(num_bytes, 1), 1)):
                location = f"{name}[{index}]"
                index += 1
                if isinstance(value, UnicodeDecodeError):
                    raw = value.object.decode("utf-8", "replace")
                    yield RawRow(location, None, raw, BAD_UTF8)
                else:
                    yield RawRow(location, value, num_bytes=num_bytes)


def _values(batch: pa.RecordBatch, num_rows: int) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch, or why one has no value; so many at a time, while all have one."""
    for start in range(0, batch.num_rows, num_rows):
        rows = batch.slice(start, num_rows)
        try:
            yield from rows.to_pylist()
        except UnicodeDecodeError as error:
            if rows.num_rows == 1:
                yield error
            else:
                yield from _values(rows, 1)


READERS: dict[str, Callable[[Path, str], Iterator[Rows]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _refuse_binary(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head = file.read(4096)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{name}: this is {kind}, not what its name says; rename or convert it")
    if head.count(0) > len(head) // 8:
        raise DataError(f"{name}: this is binary data, not UTF-8 text; convert it")


@contextmanager
def file_errors(name: str) -> Generator[None]:
    """Turn a failure to read the file called `name` into a DataError."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file: {error}; compress it again") from error
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name}: not a readable Parquet file: {reason}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
