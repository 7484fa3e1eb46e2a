"""One object to one file: in ranges, each repeated by itself, in place only once verified."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from equilibrate_core.artifacts import remove
from equilibrate_core.s3_retries import AlteredContent, with_retries
from equilibrate_core.s3_uris import S3Uri

RANGE_BYTES = 16 * 2**20
CHUNK_BYTES = 2**20
WORKERS = 8


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


def expected_digest(head: Any) -> tuple[str, str] | None:
    """(algorithm, hex digest) of the whole object, where the store knows one.

    Ours is the SHA-256 in the metadata. Of objects written by others the ETag is the MD5, unless
    they came in parts ("…-3") or are encrypted with a key of their own.
    """
    stored = str(head.get("Metadata", {}).get("sha256", ""))
    if stored:
        return "sha256", stored
    etag = str(head.get("ETag", "")).strip('"')
    plain = len(etag) == 32 and head.get("ServerSideEncryption", "AES256") == "AES256"
    return ("md5", etag) if plain else None


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
    _verify(source, head, partial)


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


def _verify(source: S3Uri, head: Any, partial: Path) -> None:
    expected = expected_digest(head)
    if expected is None:
        return
    algorithm, wanted = expected
    with partial.open("rb") as file:
        actual = hashlib.file_digest(file, algorithm).hexdigest()
    if actual != wanted:
        name = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
        raise AlteredContent(
            f"{source}: {name} is {actual}, but {wanted} is stored with the object; "
            "it was altered: write it again"
        )
