"""s3:// URIs and the keys below them, which may never leave their folder."""

import re
from dataclasses import dataclass

from equilibrate_core.errors import StorageError

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class S3Uri:
    """A bucket and a key; the key is empty for the whole bucket."""

    bucket: str
    key: str

    def __str__(self) -> str:
        """The URI as text."""
        return f"{SCHEME}{self.bucket}/{self.key}"


def is_s3(uri: str) -> bool:
    """Whether a URI leads to an object store."""
    return uri.startswith(SCHEME)


def parse_uri(uri: str) -> S3Uri:
    """Bucket and key of an s3:// URI. Raises StorageError when it is not a sound one."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not is_s3(uri) or not _BUCKET.fullmatch(bucket):
        raise StorageError(
            f"{uri}: not an S3 URI; expected s3://bucket/key with a valid bucket name"
        )
    if key:
        _check_confined(uri, key.removesuffix("/"))
    return S3Uri(bucket, key)


def join_uri(uri: str, name: str) -> str:
    """URI of `name` below the folder `uri`; a name that would leave the folder is refused."""
    _check_confined(f"{uri}: {name!r}", name)
    return f"{uri.rstrip('/')}/{name}"


def relative_name(prefix: str, key: str) -> str:
    """Path of a listed key below its prefix; StorageError when it would leave the folder."""
    name = key.removeprefix(prefix)
    if not key.startswith(prefix):
        raise StorageError(f"{key!r}: refused: the store listed it under {prefix!r}")
    _check_confined(f"{prefix}: {key!r}", name)
    return name


def _check_confined(where: str, name: str) -> None:
    parts = name.split("/")
    if _CONTROL.search(name) or any(part in ("", ".", "..") for part in parts):
        raise StorageError(
            f"{where}: refused: a key must be a plain relative path (no '..', '.', '//', leading "
            "'/' or control characters)"
        )
