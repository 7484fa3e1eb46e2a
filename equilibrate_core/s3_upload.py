"""One file to one object: small ones at once, large ones in parts that a later try does not repeat.

Every part carries its SHA-256, which the store checks; a part of an earlier try counts only if the
store's digest of it is ours.
"""

import base64
import hashlib
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from equilibrate_core.s3_retries import AlteredContent, with_retries
from equilibrate_core.s3_uris import S3Uri

PART_BYTES = 16 * 2**20
MAX_PARTS = 10_000
WORKERS = 4

Part = dict[str, Any]


def upload_object(client: Any, path: Path, target: S3Uri, sha256: str) -> str | None:
    """Upload a file whose SHA-256 is known; the store's checksum to expect, if it keeps one.

    Memory: WORKERS x part size. A failure leaves the parts that arrived; the next call goes on
    from them.
    """
    size = path.stat().st_size
    if size <= PART_BYTES:
        _put(client, path, target, sha256)
        return base64.b64encode(bytes.fromhex(sha256)).decode()
    part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
    upload_id = with_retries(str(target), lambda: _begun_upload(client, target))
    if upload_id is None:
        upload_id = with_retries(str(target), lambda: _begin_upload(client, target, sha256))
    parts = _upload_in_parts(client, path, target, upload_id, part_bytes, sha256)
    if parts is None:
        upload_id = with_retries(str(target), lambda: _begin_upload(client, target, sha256))
        parts = _upload_in_parts(client, path, target, upload_id, part_bytes, sha256)
    if parts is None:
        raise AlteredContent(f"{target}: somebody else ended its upload twice")
    return _checksum_of_checksums(parts)


def abort_uploads(client: Any, target: S3Uri) -> None:
    """Forget what earlier tries left of this key."""
    while (upload_id := _begun_upload(client, target)) is not None:
        client.abort_multipart_upload(Bucket=target.bucket, Key=target.key, UploadId=upload_id)


def _put(client: Any, path: Path, target: S3Uri, sha256: str) -> None:
    def put() -> None:
        with path.open("rb") as file:
            client.put_object(
                Bucket=target.bucket,
                Key=target.key,
                Body=file,
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                Metadata={"sha256": sha256},
            )

    with_retries(str(target), put)


def _begin_upload(client: Any, target: S3Uri, sha256: str) -> str:
    begun = client.create_multipart_upload(
        Bucket=target.bucket,
        Key=target.key,
        ChecksumAlgorithm="SHA256",
        Metadata={"sha256": sha256},
    )
    return str(begun["UploadId"])


def _begun_upload(client: Any, target: S3Uri) -> str | None:
    """Newest upload of exactly this key that was begun and not completed."""
    listing = client.list_multipart_uploads(Bucket=target.bucket, Prefix=target.key)
    begun = [item for item in listing.get("Uploads", ()) if item["Key"] == target.key]
    newest = max(begun, key=lambda item: item["Initiated"], default=None)
    return None if newest is None else str(newest["UploadId"])


def _upload_in_parts(
    client: Any, path: Path, target: S3Uri, upload_id: str, part_bytes: int, sha256: str
) -> list[Part] | None:
    """Send what is missing and complete the upload; None where it is gone and nothing came of it.

    Returns parts with their checksums.
    """
    try:
        parts = _upload_parts(client, path, target, upload_id, part_bytes)
        with_retries(str(target), lambda: _complete(client, target, upload_id, parts))
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchUpload":
            raise
        # Completed by another process with the same content, or by a try whose reply was lost; or
        # it was aborted.
        there = with_retries(str(target), lambda: _is_there(client, target, sha256))
        return _own_parts(path, part_bytes) if there else None
    return parts


def _upload_parts(
    client: Any, path: Path, target: S3Uri, upload_id: str, part_bytes: int
) -> list[Part]:
    there = with_retries(str(target), lambda: _parts_there(client, target, upload_id))
    size = path.stat().st_size
    numbers = iter(range(1, -(-size // part_bytes) + 1))
    done: list[Part] = []
    running: set[Future[Part]] = set()
    file = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            while True:
                for number in numbers:
                    where = (file, (number - 1) * part_bytes, part_bytes)
                    running.add(
                        pool.submit(_upload_part, client, target, upload_id, number, where, there)
                    )
                    if len(running) == WORKERS:
                        break
                if not running:
                    return sorted(done, key=lambda part: int(part["PartNumber"]))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                done += [item.result() for item in finished]
    finally:
        os.close(file)


def _upload_part(
    client: Any,
    target: S3Uri,
    upload_id: str,
    number: int,
    where: tuple[int, int, int],
    there: dict[int, Part],
) -> Part:
    file, start, part_bytes = where
    content = os.pread(file, part_bytes, start)
    checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
    known = there.get(number, {})
    # Stores that list no checksum list the MD5, as the part's ETag.
    if known.get("ChecksumSHA256") == checksum or (
        known
        and "ChecksumSHA256" not in known
        and known["ETag"].strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest()
    ):
        return {"PartNumber": number, "ETag": known["ETag"], "ChecksumSHA256": checksum}

    def upload() -> Part:
        reply = client.upload_part(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload_id,
            PartNumber=number,
            Body=content,
            ChecksumSHA256=checksum,
        )
        return {"PartNumber": number, "ETag": reply["ETag"], "ChecksumSHA256": checksum}

    return with_retries(f"{target} part {number}", upload)


def _is_there(client: Any, target: S3Uri, sha256: str) -> bool:
    """Whether the object is in the store, with this content."""
    try:
        head = client.head_object(Bucket=target.bucket, Key=target.key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return False
        raise
    return head["Metadata"].get("sha256") == sha256


def _own_parts(path: Path, part_bytes: int) -> list[Part]:
    """Checksums of the parts as they would be uploaded."""
    parts: list[Part] = []
    with path.open("rb") as file:
        while content := file.read(part_bytes):
            checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
            parts.append({"ChecksumSHA256": checksum})
    return parts


def _parts_there(client: Any, target: S3Uri, upload_id: str) -> dict[int, Part]:
    pages = client.get_paginator("list_parts").paginate(
        Bucket=target.bucket, Key=target.key, UploadId=upload_id
    )
    return {int(part["PartNumber"]): part for page in pages for part in page.get("Parts", ())}


def _complete(client: Any, target: S3Uri, upload_id: str, parts: list[Part]) -> None:
    client.complete_multipart_upload(
        Bucket=target.bucket,
        Key=target.key,
        UploadId=upload_id,
        MultipartUpload={"Parts": parts},
    )


def _checksum_of_checksums(parts: list[Part]) -> str:
    digests = b"".join(base64.b64decode(part["ChecksumSHA256"]) for part in parts)
    return f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}-{len(parts)}"
