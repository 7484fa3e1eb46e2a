"""From a source's URI to its rows, wherever they lie: disk, object store or hub."""

import hashlib
import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.import_data.config import Source
from components.import_data.readers import file_errors, is_readable, read_file
from components.import_data.rows import RawRow, Rows, first_rows, in_blocks
from equilibrate_core.artifacts import remove, sha256_file
from equilibrate_core.errors import DataError
from equilibrate_core.hub import SCHEME as HUB_SCHEME
from equilibrate_core.hub import hub_errors, hub_revision, parse_hub_uri
from equilibrate_core.s3 import download_file, list_objects
from equilibrate_core.s3_uris import is_s3

log = logging.getLogger(__name__)

Digests = dict[str, str]
"""SHA-256 of each file read (the commit of a hub dataset), by its name."""


def read_source(source: Source, scratch: Path, digests: Digests) -> Generator[Rows]:
    """Rows of a source in a fixed order, at most its `limit`; what was read enters `digests`."""
    if source.uri.startswith(HUB_SCHEME):
        blocks = in_blocks(_hub_rows(source, digests))
    else:
        blocks = _file_rows(source.uri, scratch, digests)
    return blocks if source.limit is None else first_rows(blocks, source.limit)


def combined_digest(digests: Digests) -> str:
    """One digest of everything a source consisted of."""
    lines = "\n".join(f"{name} {value}" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_rows(uri: str, scratch: Path, digests: Digests) -> Generator[Rows]:
    with ThreadPoolExecutor(1) as pool:
        for path, name in _files(uri, scratch):
            digest = pool.submit(sha256_file, path)  # beside the reading
            try:
                yield from read_file(path, name)
            finally:
                with file_errors(name):
                    digests[name] = digest.result()


def _files(uri: str, scratch: Path) -> Iterator[tuple[Path, str]]:
    """Each file of a URI on disk, with the name messages call it by."""
    return _remote_files(uri, scratch) if is_s3(uri) else _local_files(uri)


def _local_files(uri: str) -> Iterator[tuple[Path, str]]:
    root = Path(uri)
    if not root.exists():
        raise DataError(f"{uri}: no such file or folder (relative paths start at {Path.cwd()})")
    if root.is_file():
        yield root, uri
        return
    names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    for name in _readable(uri, names):
        yield root / name, f"{uri.rstrip('/')}/{name}"


def _remote_files(uri: str, scratch: Path) -> Iterator[tuple[Path, str]]:
    objects = {item.name: str(item.uri) for item in list_objects(uri)}
    names = list(objects) if list(objects.values()) == [uri] else _readable(uri, list(objects))
    for name in names:
        path = scratch / name
        download_file(objects[name], path)
        yield path, objects[name]
        remove(path)


def _readable(uri: str, names: list[str]) -> list[str]:
    """The files of a folder that can be read, sorted; the others are logged."""
    hidden = {name for name in names if any(p.startswith((".", "_")) for p in name.split("/"))}
    readable = sorted(name for name in names if is_readable(name) and name not in hidden)
    if skipped := sorted(set(names) - set(readable)):
        log.warning("%s: %d files are no data files: %s", uri, len(skipped), ", ".join(skipped))
    if not readable:
        raise DataError(f"{uri}: no .jsonl, .json, .csv or .parquet file in this folder")
    return readable


def _hub_rows(source: Source, digests: Digests) -> Iterator[RawRow]:
    target = parse_hub_uri(source.uri)
    revision = hub_revision(source.uri, "dataset")
    digests[source.uri] = revision
    with hub_errors(source.uri):
        import datasets  # seconds to import, needed for hf:// alone

        rows = datasets.load_dataset(
            target.repo, target.subset, split=source.split, revision=revision
        )
        num_bytes = rows.data.nbytes // max(rows.data.num_rows, 1)
        for index, value in enumerate(rows):
            yield RawRow(f"{source.uri}[{index}]", dict(value), num_bytes=num_bytes)
