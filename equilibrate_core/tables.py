"""Dataset artifacts: rows of one record type as Parquet files beside a manifest."""

import shutil
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel

from equilibrate_core.artifacts import Counts, Draft, StageRun, verify_artifact
from equilibrate_core.errors import StageError
from equilibrate_core.records import Record

RecordT = TypeVar("RecordT", bound=Record)
ROWS_PER_FILE = 50_000
ROWS_PER_BATCH = 2_000
NUM_WRITERS = 2
ReadyFile = Callable[[int, int], Path | None]
"""Index and first row of a file → that file, if it was written ahead with the very same rows."""


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
        _complete(draft, counts, extra_files)
        return draft.rows


def write_tables(
    run: StageRun,
    destination: Path,
    record: type[Record],
    tables: Iterable[pa.Table],
    *,
    counts: Counts | None = None,
    extra_files: dict[str, str] | None = None,
    ready: ReadyFile | None = None,
) -> int:
    """As `write_dataset`, of rows in Arrow tables with the record's columns; the same bytes."""
    with dataset_draft(run, destination, record) as draft:
        with TableWriter(draft.path, record, ready) as writer:
            for table in tables:
                writer.write(table)
        draft.rows = writer.num_rows
        _complete(draft, counts, extra_files)
        return draft.rows


def read_dataset(artifact: Path, record: type[RecordT]) -> list[RecordT]:
    """All rows of a verified dataset artifact. Raises ArtifactError when it is not one."""
    return list(iter_dataset(artifact, record))


def iter_dataset(artifact: Path, record: type[RecordT]) -> Iterator[RecordT]:
    """Rows of a verified dataset artifact, in order, in bounded memory."""
    verify_artifact(artifact, record.__name__)
    for path in dataset_files(artifact):
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


def dataset_files(artifact: Path) -> list[Path]:
    """Parquet files of a dataset artifact, in the order of its rows."""
    return sorted(artifact.glob("data-*.parquet"))


def gather_rows(artifact: Path, record: type[Record], positions: NDArray[Any]) -> pa.Table:
    """Rows at these positions of a dataset, in this order, without a Python object per row.

    One file is in memory at a time, besides the rows asked for.
    """
    schema = arrow_schema(record)
    order = np.argsort(positions, kind="stable")
    wanted = np.asarray(positions, dtype=np.int64)[order]
    found, start = [schema.empty_table()], 0
    for path in dataset_files(artifact):
        with pq.ParquetFile(path) as file:
            end = start + file.metadata.num_rows
            low, high = np.searchsorted(wanted, [start, end])
            if high > low:
                found.append(file.read().cast(schema).take(pa.array(wanted[low:high] - start)))
            start = end
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return pa.concat_tables(found).take(pa.array(places))


class TableWriter:
    """Writes Arrow tables of one record type as the files of a dataset; a context manager.

    Files are compressed in the background, two at a time: encoding leaves Python's lock to others.
    """

    def __init__(self, folder: Path, record: type[Record], ready: ReadyFile | None = None) -> None:
        self._folder, self._schema, self._ready = folder, arrow_schema(record), ready
        self._held = self._schema.empty_table()
        self._pool = ThreadPoolExecutor(NUM_WRITERS)
        self._files: list[Future[Any]] = []
        self.num_rows = 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        self._pool.shutdown()

    def finish(self, *, whole: bool = True) -> list[Path]:
        """The files, all written; without `whole`, rows that do not fill one are left out."""
        with self._pool:
            if whole and (self._held.num_rows or not self._files):
                self._flush(self._held)
        for file in self._files:
            file.result()
        return dataset_files(self._folder)

    def write(self, table: pa.Table) -> None:
        """Add the rows of a table. Raises what an earlier file could not be written for."""
        self.num_rows += table.num_rows
        held = pa.concat_tables([self._held, table.cast(self._schema)])
        while held.num_rows >= ROWS_PER_FILE:
            self._flush(held.slice(0, ROWS_PER_FILE))
            held = held.slice(ROWS_PER_FILE)
        self._held = held

    def _flush(self, table: pa.Table) -> None:
        if len(self._files) >= NUM_WRITERS:
            self._files[-NUM_WRITERS].result()  # so many tables are in memory, and no more
        index = len(self._files)
        path = self._folder / f"data-{index:05d}.parquet"
        if self._ready and (ready := self._ready(index, index * ROWS_PER_FILE)):
            self._files.append(self._pool.submit(shutil.move, ready, path))
        else:
            self._files.append(self._pool.submit(_write_file, table, path))


def _write_file(table: pa.Table, path: Path) -> None:
    # Where the tables met must not show in the bytes.
    pq.write_table(table.combine_chunks(), path, compression="zstd")


def _complete(draft: Draft, counts: Counts | None, extra_files: dict[str, str] | None) -> None:
    draft.counts = counts
    for name, text in (extra_files or {}).items():
        (draft.path / name).write_text(text, encoding="utf-8")


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
