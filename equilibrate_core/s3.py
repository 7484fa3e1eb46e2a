"""A thin layer over boto3: s3:// URIs in, verified files out, one clear line when it fails."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from equilibrate_core import s3_checksums as checksums
from equilibrate_core.artifacts import MANIFEST, sha256_file
from equilibrate_core.errors import StorageError
from equilibrate_core.records import digest
from equilibrate_core.s3_client import MAX_ATTEMPTS, connect
from equilibrate_core.s3_download import download_object
from equilibrate_core.s3_errors import storage_errors
from equilibrate_core.s3_retries import AlteredContent, with_retries
from equilibrate_core.s3_upload import abort_uploads, upload_object
from equilibrate_core.s3_uris import S3Uri, join_uri, parse_uri, relative_name


@dataclass(frozen=True)
class S3Object:
    """One object found under a URI; `name` is its path below that URI."""

    uri: S3Uri
    name: str
    num_bytes: int
    etag: str


def create_bucket(uri: str) -> None:
    """Create the bucket of a URI unless this key already owns it."""
    target = parse_uri(uri)
    with storage_errors(uri):
        try:
            connect().create_bucket(Bucket=target.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise


def list_objects(uri: str) -> list[S3Object]:
    """The object at a URI, or all objects below it as a folder, sorted by name.

    Raises StorageError when there is none, or when a key tries to leave the folder.
    """
    target = parse_uri(uri)
    with storage_errors(uri):
        if target.key and not target.key.endswith("/"):
            head = _head(target, absent_ok=True)
            if head is not None:
                name = target.key.rsplit("/", 1)[-1]
                return [S3Object(target, name, head["ContentLength"], head["ETag"].strip('"'))]
        found = with_retries(uri, lambda: sorted(_walk(target), key=lambda item: item.name))
    if not found:
        raise StorageError(f"{uri}: nothing there, neither an object nor a folder; check the key")
    return found


def exists(uri: str) -> bool:
    """Whether an object lies at exactly this URI."""
    with storage_errors(uri):
        return _head(parse_uri(uri), absent_ok=True) is not None


def stored_digest(uri: str) -> str | None:
    """SHA-256 that `upload_file` stored with an object; None without the object or the digest.

    Whoever overwrites the object with other tools loses it.
    """
    with storage_errors(uri):
        head = _head(parse_uri(uri), absent_ok=True)
    return None if head is None else head.get("Metadata", {}).get("sha256")


def content_digest(uri: str) -> str:
    """What changes when the content at a URI does: version id, else ETag, size and key.

    A folder's is the digest over all its objects.
    """
    objects = list_objects(uri)
    if len(objects) == 1 and objects[0].uri == parse_uri(uri):
        with storage_errors(uri):
            head = _head(objects[0].uri)
        if head.get("VersionId", "null") != "null":
            return f"version:{head['VersionId']}"
    parts = [[item.uri.key, item.etag, item.num_bytes] for item in objects]
    return f"etags:{digest(parts)}"


def download_file(uri: str, path: Path) -> None:
    """Download one object and check it against the SHA-256 stored with it, or the store's checksum.

    The file appears when it is whole and verified; passing faults are waited out.
    """
    source = parse_uri(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(uri):
        download_object(connect(), source, _head(source), path)


def download_folder(uri: str, folder: Path) -> list[Path]:
    """Download what lies at or below a URI into a folder; returns the files, sorted by name."""
    files: list[Path] = []
    for item in list_objects(uri):
        path = folder / item.name
        try:
            download_file(str(item.uri), path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise StorageError(
                f"{item.uri}: its name is a file and a folder at once; rename one of the objects"
            ) from error
        files.append(path)
    return files


def upload_file(path: Path, uri: str) -> None:
    """Upload a file with its SHA-256 and verify what the store then reports.

    Large files go in parts; what an interrupted upload of the same content left is not sent again.
    """
    target = parse_uri(uri)
    sha256 = sha256_file(path)
    with storage_errors(uri):
        checksum = upload_object(connect(), path, target, sha256)
        head = _head(target)
        if head["Metadata"].get("sha256") != sha256:
            # The parts that were found belonged to an upload of other content.
            abort_uploads(connect(), target)
            checksum = upload_object(connect(), path, target, sha256)
            head = _head(target)
    _check_stored(uri, head, path, sha256, checksum)


def upload_folder(folder: Path, uri: str) -> list[str]:
    """Upload every file of a folder below a URI, its manifest last; returns their URIs."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    if not names:
        raise StorageError(f"{folder}: nothing to upload to {uri}: no such folder, or it is empty")
    uris: list[str] = []
    for name in sorted(names, key=lambda name: (name == MANIFEST, name)):
        uris.append(join_uri(uri, name))
        upload_file(folder / name, uris[-1])
    return uris


def remove_folder(uri: str) -> None:
    """Delete every object below a URI, its manifest first: what is left never looks whole."""
    _delete(list_objects(uri))


def clear_folder(uri: str) -> None:
    """Delete every object below a URI, if there is any."""
    with storage_errors(uri):
        found = with_retries(uri, lambda: list(_walk(parse_uri(uri))))
    _delete(found)


def remove_objects(uris: Sequence[str]) -> None:
    """Delete these objects, in this order; one that is not there is no error."""
    for uri in uris:
        target = parse_uri(uri)
        with storage_errors(uri):
            where = {"Bucket": target.bucket, "Key": target.key}
            with_retries(uri, partial(connect().delete_object, **where))


def read_object(uri: str) -> tuple[bytes, str]:
    """Content and ETag of a small object."""
    source = parse_uri(uri)

    def read() -> tuple[bytes, str]:
        reply = connect().get_object(Bucket=source.bucket, Key=source.key)
        content = reply["Body"].read()
        expected = checksums.expected_digest(reply)
        if (
            expected
            and not expected.num_parts
            and checksums.content_digest(content, expected.algorithm) != expected.hex
        ):
            raise AlteredContent(f"{source}: it was altered: write it again")
        return content, reply["ETag"]

    with storage_errors(uri):
        return with_retries(uri, read)


def put_if_absent(uri: str, content: bytes) -> str | None:
    """Write an object nobody has written yet; its ETag, or None when someone had."""
    return _put_on_condition(uri, content, {"IfNoneMatch": "*"})


def replace_if_match(uri: str, content: bytes, etag: str) -> str | None:
    """Replace the object that still has `etag`; the new ETag, or None when it changed."""
    return _put_on_condition(uri, content, {"IfMatch": etag})


def _head(target: S3Uri, *, absent_ok: bool = False) -> Any:
    def ask() -> Any:
        return connect().head_object(Bucket=target.bucket, Key=target.key, ChecksumMode="ENABLED")

    try:
        # botocore's own tries are limited over all requests of a client: many faults use them up.
        return with_retries(str(target), ask)
    except ClientError as error:
        # A HEAD has no body, so 403 and 404 do not say why: this listing does, by raising.
        where = {"Bucket": target.bucket, "Prefix": target.key, "MaxKeys": 1}
        with_retries(str(target), lambda: connect().list_objects_v2(**where))
        if absent_ok and error.response["Error"]["Code"] == "404":
            return None
        raise


def _walk(target: S3Uri) -> Iterator[S3Object]:
    prefix = f"{target.key.rstrip('/')}/" if target.key else ""
    pages = connect().get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=prefix)
    for page in pages:
        for item in page.get("Contents", ()):
            key = str(item["Key"])
            if key.endswith("/") and not item["Size"]:
                continue  # a folder marker, which consoles create
            name = relative_name(prefix, key)
            etag = str(item["ETag"]).strip('"')
            yield S3Object(S3Uri(target.bucket, key), name, int(item["Size"]), etag)


def _delete(objects: list[S3Object]) -> None:
    first = sorted(objects, key=lambda item: (item.name != MANIFEST, item.name))
    remove_objects([str(item.uri) for item in first])


def _check_stored(uri: str, head: Any, path: Path, sha256: str, checksum: str | None) -> None:
    if head["ContentLength"] != path.stat().st_size:
        raise StorageError(
            f"{uri}: has {head['ContentLength']} bytes but {path.name} has {path.stat().st_size}; "
            "the transfer was cut short or the object changed meanwhile: try again"
        )
    # Stores that keep no checksum verified the content's digest when it arrived.
    kept = str(head.get("ChecksumSHA256", checksum))
    for expected, actual in ((sha256, head["Metadata"].get("sha256")), (checksum, kept)):
        if expected != actual:
            raise StorageError(
                f"{uri}: SHA-256 is {actual}, but {expected} is what was sent; "
                "it was altered: write it again"
            )


def _put_on_condition(uri: str, content: bytes, condition: dict[str, str]) -> str | None:
    target = parse_uri(uri)
    write_id = uuid.uuid4().hex

    def put() -> Any:
        return connect().put_object(
            Bucket=target.bucket,
            Key=target.key,
            Body=content,
            ChecksumAlgorithm="SHA256",
            Metadata={"sha256": hashlib.sha256(content).hexdigest(), "write-id": write_id},
            **condition,
        )

    with storage_errors(uri):
        for _ in range(MAX_ATTEMPTS):
            try:
                return with_retries(uri, put)["ETag"]
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "ConditionalRequestConflict":
                    continue  # another write is in flight: S3 asks to try again
                if code not in ("PreconditionFailed", "412", "NoSuchKey"):
                    raise
                # A retry after a lost reply finds its own first write and must not disown it.
                head = _head(target, absent_ok=True)
                if head is not None and head["Metadata"].get("write-id") == write_id:
                    return head["ETag"]
                return None
    raise StorageError(f"{uri}: other writers kept getting in between; try again later")
