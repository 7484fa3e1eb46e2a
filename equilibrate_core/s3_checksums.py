"""What a store tells of an object's content, whole or by its parts, and what a file's content is.

An object's head -> the digest to expect; a file and the parts' sizes -> the digest it has.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHUNK_BYTES = 2**20
CHECKSUMS = {"ChecksumSHA256": "sha256", "ChecksumSHA1": "sha1", "ChecksumCRC32": "crc32"}
"""Those of S3's checksums that the standard library can compute."""


class Expected(NamedTuple):
    """A digest of an object's content."""

    algorithm: str
    hex: str
    num_parts: int = 0
    """0: of the whole; else of the digests of so many parts, one after the other."""


def expected_digest(head: Any) -> Expected | None:
    """The digest of the whole object, where the store knows one, else that of its parts' digests.

    Ours is the SHA-256 in the metadata. Of objects written by others it is the store's checksum, or
    the ETag, which is the MD5 unless they are encrypted with a key of their own; of an upload in
    parts ("…-3") it is the MD5 of the parts' MD5s, as a composite checksum is of theirs.
    """
    if stored := str(head.get("Metadata", {}).get("sha256", "")):
        return Expected("sha256", stored)
    found = [*_checksums(head), *_etag(head)]
    return min(found, key=lambda expected: expected.num_parts > 0, default=None)


def _checksums(head: Any) -> list[Expected]:
    found: list[Expected] = []
    for name, algorithm in CHECKSUMS.items():
        value, _, num_parts = str(head.get(name, "")).partition("-")
        try:
            raw = base64.b64decode(value, validate=True)
        except binascii.Error:
            continue
        if raw and (num_parts.isdigit() or head.get("ChecksumType") != "COMPOSITE"):
            found.append(Expected(algorithm, raw.hex(), int(num_parts or 0)))
    return found


def _etag(head: Any) -> list[Expected]:
    etag, _, num_parts = str(head.get("ETag", "")).strip('"').partition("-")
    is_md5 = len(etag) == 32 and head.get("ServerSideEncryption", "AES256") == "AES256"
    if not is_md5 or (num_parts and not num_parts.isdigit()):
        return []
    return [Expected("md5", etag, int(num_parts or 0))]


def content_digest(content: bytes, algorithm: str) -> str:
    """Digest of bytes in memory, as hex."""
    digest = _Digest(algorithm)
    digest.update(content)
    return digest.digest().hex()


def file_digest(path: Path, algorithm: str) -> str:
    """Digest of a whole file, as hex."""
    return _part_digests(path, algorithm, [path.stat().st_size])[0].hex()


def parts_digest(path: Path, algorithm: str, sizes: Sequence[int]) -> str:
    """Digest of the digests of a file's parts, as hex."""
    return content_digest(b"".join(_part_digests(path, algorithm, sizes)), algorithm)


def even_sizes(total: int, first: int, num_parts: int) -> list[int] | None:
    """Sizes of parts that are all as long as the first, but for the last; None if none fit."""
    last = total - first * (num_parts - 1)
    return [first] * (num_parts - 1) + [last] if 0 < last <= first else None


def _part_digests(path: Path, algorithm: str, sizes: Sequence[int]) -> list[bytes]:
    digests: list[bytes] = []
    with path.open("rb") as file:
        for size in sizes:
            digest = _Digest(algorithm)
            while size and (chunk := file.read(min(size, CHUNK_BYTES))):
                digest.update(chunk)
                size -= len(chunk)
            digests.append(digest.digest())
    return digests


class _Digest:
    def __init__(self, algorithm: str) -> None:
        self._crc = 0
        self._hash = None if algorithm == "crc32" else hashlib.new(algorithm)

    def update(self, chunk: bytes) -> None:
        if self._hash is None:
            self._crc = zlib.crc32(chunk, self._crc)
        else:
            self._hash.update(chunk)

    def digest(self) -> bytes:
        return self._crc.to_bytes(4, "big") if self._hash is None else self._hash.digest()
