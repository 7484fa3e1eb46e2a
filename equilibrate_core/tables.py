"""Dataset artifacts: rows of one record type as Parquet files beside a manifest."""

import types
import typing
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from equilibrate_core.artifacts import Counts, Draft, StageRun, verify_artifact
from equilibrate_core.errors import StageError
from equilibrate_core.records import Record

RecordT = TypeVar("RecordT", bound=Record)
ROWS_PER_FILE = 50_000
ROWS_PER_BATCH = 2_000


@contextmanager
def dataset_draft(run: StageRun, destination: Path, record: type[Record]) -> Generator[Draft]:
    """Draft of a dataset of `record` rows: call `write_rows` on its path, add files, set counts."""
    with run.output(destination, record.__name__) as draft:
        yield draft


def write_dataset(
    run: StageRun,
    destination: Path,
    record: type[RecordT],
    rows: Iterable[RecordT],
    *,
    counts: Counts | None = None,
    extra_files: dict[str, str] | None = None,
) -> int:
    """Write `rows` as a dataset artifact and return their number.

    `counts` is read when the rows are exhausted, so a generator may fill it as it yields.
    `extra_files` maps names to texts that are sealed in the same manifest (metrics.json, …).
    """
    with dataset_draft(run, destination, record) as draft:
        draft.rows = write_rows(draft.path, record, rows)
        draft.counts = counts
        for name, text in (extra_files or {}).items():
            (draft.path / name).write_text(text, encoding="utf-8")
        return draft.rows


def read_dataset(artifact: Path, record: type[RecordT]) -> list[RecordT]:
    """All rows of a verified dataset artifact. Raises ArtifactError when it is not one."""
    return list(iter_dataset(artifact, record))


def iter_dataset(artifact: Path, record: type[RecordT]) -> Iterator[RecordT]:
    """Rows of a verified dataset artifact, in order, in bounded memory."""
    verify_artifact(artifact, record.__name__)
    for path in sorted(artifact.glob("data-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    yield record.model_validate(row)


def arrow_schema(record: type[BaseModel]) -> pa.Schema:
    """Arrow schema of a record type, field by field from its annotations."""
    return pa.schema(_arrow_fields(record))


def write_rows(folder: Path, record: type[RecordT], rows: Iterable[RecordT]) -> int:
    """Write `rows` as `data-*.parquet` files in `folder` and return their number."""
    schema = arrow_schema(record)
    iterator = iter(rows)
    total = 0
    for index in range(100_000):
        chunk = list(islice(iterator, ROWS_PER_FILE))
        if not chunk and index:
            return total
        table = pa.Table.from_pylist([row.model_dump() for row in chunk], schema=schema)
        pq.write_table(table, folder / f"data-{index:05d}.parquet", compression="zstd")
        total += len(chunk)
        if len(chunk) < ROWS_PER_FILE:
            return total
    raise StageError(f"{folder}: more than {100_000 * ROWS_PER_FILE} rows in one artifact")


def _arrow_fields(record: type[BaseModel]) -> list[pa.Field]:
    hints = typing.get_type_hints(record)
    return [_arrow_field(name, hints[name]) for name in record.model_fields]


def _arrow_field(name: str, annotation: Any) -> pa.Field:
    if get_origin(annotation) in (types.UnionType, typing.Union):
        (inner,) = [arg for arg in get_args(annotation) if arg is not type(None)]
        return pa.field(name, _arrow_type(inner), nullable=True)
    return pa.field(name, _arrow_type(annotation), nullable=False)


def _arrow_type(annotation: Any) -> pa.DataType:
    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in scalars:
        return scalars[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return pa.string()
    if origin in (list, tuple):
        return pa.list_(_arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(pa.string(), _arrow_type(arguments[1]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct(_arrow_fields(annotation))
    raise TypeError(f"no Arrow type for {annotation!r}")
