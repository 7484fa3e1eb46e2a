"""One object to one file: in ranges, each repeated by itself, in place only once verified."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from equilibrate_core.artifacts import remove
from equilibrate_core.s3_checksums import (
    CHUNK_BYTES,
    Expected,
    even_sizes,
    expected_digest,
    file_digest,
    parts_digest,
)
from equilibrate_core.s3_retries import AlteredContent, with_retries
from equilibrate_core.s3_uris import S3Uri

RANGE_BYTES = 16 * 2**20
WORKERS = 8
logger = logging.getLogger(__name__)


def download_object(client: Any, source: S3Uri, head: Any, path: Path) -> None:
    """Fetch the object that `head` describes and put it at `path` once its content is verified.

    Memory: WORKERS x CHUNK_BYTES. Raises AlteredContent when it arrives altered every time, and
    ClientError "PreconditionFailed" when it was replaced meanwhile.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with_retries(str(source), lambda: _fetch(client, source, head, partial), rounds=3)
        os.replace(partial, path)
    finally:
        remove(partial)


def _fetch(client: Any, source: S3Uri, head: Any, partial: Path) -> None:
    size = int(head["ContentLength"])
    with partial.open("wb") as file:
        file.truncate(size)
        starts = range(0, size, RANGE_BYTES)
        with ThreadPoolExecutor(min(WORKERS, max(1, len(starts)))) as pool:
            pieces = [
                pool.submit(_fetch_range, client, source, head, file.fileno(), start)
                for start in starts
            ]
            try:
                for piece in pieces:
                    piece.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    _verify(client, source, head, partial)


def _fetch_range(client: Any, source: S3Uri, head: Any, file: int, start: int) -> None:
    size = int(head["ContentLength"])
    end = min(start + RANGE_BYTES, size)

    def fetch() -> None:
        reply = client.get_object(
            Bucket=source.bucket,
            Key=source.key,
            Range=f"bytes={start}-{end - 1}",
            IfMatch=head["ETag"],
        )
        at = start
        with closing(reply["Body"]) as body:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                at += os.pwrite(file, chunk[: end - at], at)
        if at != end:
            raise AlteredContent(f"bytes {start} to {end} ended at {at}")

    with_retries(f"{source} from byte {start}", fetch)


def _verify(client: Any, source: S3Uri, head: Any, partial: Path) -> None:
    expected = expected_digest(head)
    actual = _actual_digest(client, source, head, partial, expected) if expected else None
    if expected is None or actual is None:
        logger.warning("%s: its content is not verified: the store tells no checksum of it", source)
    elif actual != expected.hex:
        name = expected.algorithm.upper().replace("SHA", "SHA-")
        raise AlteredContent(
            f"{source}: {name} is {actual}, but {expected.hex} is stored with the object; "
            "it was altered: write it again"
        )


def _actual_digest(
    client: Any, source: S3Uri, head: Any, partial: Path, expected: Expected
) -> str | None:
    """What the file has for `expected`; None if the store does not tell how long its parts were."""

    def size(part: int) -> int:
        where = {"Bucket": source.bucket, "Key": source.key, "IfMatch": head["ETag"]}
        reply = with_retries(str(source), lambda: client.head_object(**where, PartNumber=part))
        return int(reply["ContentLength"])

    algorithm, wanted, num_parts = expected
    if not num_parts:
        return file_digest(partial, algorithm)
    total = int(head["ContentLength"])
    # All parts but the last are alike in most uploads; asking for each takes a request a part.
    if sizes := even_sizes(total, size(1), num_parts):
        actual = parts_digest(partial, algorithm, sizes)
        if actual == wanted:
            return actual
    sizes = [size(part) for part in range(1, num_parts + 1)]
    # Stores that do not know PartNumber tell the size of the whole.
    return parts_digest(partial, algorithm, sizes) if sum(sizes) == total else None
