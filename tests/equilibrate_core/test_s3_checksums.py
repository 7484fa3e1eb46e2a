"""Checksums as S3 defines them; values worked out with the standard library alone."""

import base64
import hashlib
import logging
import zlib
from pathlib import Path
from typing import Any

import pytest

from equilibrate_core import s3_download
from equilibrate_core.s3_checksums import (
    Expected,
    content_digest,
    even_sizes,
    expected_digest,
    file_digest,
    parts_digest,
)
from equilibrate_core.s3_uris import parse_uri

MD5 = "900150983cd24fb0d6963f7d28e17f72"  # of b"abc", RFC 1321
CRC32 = base64.b64encode(bytes.fromhex("352441c2")).decode()  # of b"abc"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"ETag": f'"{MD5}"'}, Expected("md5", MD5)),
        ({"ETag": f'"{MD5}-3"'}, Expected("md5", MD5, 3)),
        ({"ETag": f'"{MD5}"', "Metadata": {"sha256": "ab"}}, Expected("sha256", "ab")),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms"}, None),
        ({"ETag": f'"{MD5}-3"', "ServerSideEncryption": "aws:kms"}, None),
        ({"ETag": '"another kind"'}, None),
        ({"ETag": f'"{MD5}-x"'}, None),
        ({"ETag": f'"{MD5}-3"', "ChecksumCRC32": CRC32}, Expected("crc32", "352441c2")),
        ({"ETag": f'"{MD5}-3"', "ChecksumCRC32": CRC32 + "-3"}, Expected("crc32", "352441c2", 3)),
        (
            {"ETag": f'"{MD5}-3"', "ChecksumCRC32": CRC32, "ChecksumType": "COMPOSITE"},
            Expected("md5", MD5, 3),
        ),
        ({"ETag": "x", "ChecksumCRC64NVME": "AAAAAAAAAAA="}, None),
    ],
)
def test_what_a_store_says_of_the_content(head: dict[str, Any], expected: Expected | None) -> None:
    assert expected_digest(head) == expected


def test_digests_are_those_of_the_standards(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert content_digest(b"abc", "md5") == file_digest(path, "md5") == MD5
    assert content_digest(b"abc", "crc32") == file_digest(path, "crc32") == "352441c2"


def test_a_composite_digest_is_that_of_the_parts_digests(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abcde")
    md5s = hashlib.md5(b"ab").digest() + hashlib.md5(b"cde").digest()
    assert parts_digest(path, "md5", [2, 3]) == hashlib.md5(md5s).hexdigest()
    crcs = zlib.crc32(b"ab").to_bytes(4, "big") + zlib.crc32(b"cde").to_bytes(4, "big")
    assert parts_digest(path, "crc32", [2, 3]) == f"{zlib.crc32(crcs):08x}"


def test_parts_are_alike_but_for_the_last() -> None:
    assert even_sizes(12, 5, 3) == [5, 5, 2]
    assert even_sizes(10, 5, 2) == [5, 5]
    assert even_sizes(10, 5, 3) is None
    assert even_sizes(12, 12, 3) is None


class NoParts:
    """A store that does not know PartNumber: it tells the whole's size."""

    def head_object(self, **_: Any) -> dict[str, Any]:
        return {"ContentLength": 5}


@pytest.mark.parametrize("etag", [f"{MD5}-2", "of another kind"])
def test_what_cannot_be_verified_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, etag: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abcde")
    head = {"ContentLength": 5, "ETag": f'"{etag}"'}
    with caplog.at_level(logging.WARNING):
        s3_download._verify(NoParts(), parse_uri("s3://bucket/theirs"), head, path)
    assert "s3://bucket/theirs: its content is not verified" in caplog.text
