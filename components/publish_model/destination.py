"""Where models are published: an S3 prefix or a folder, behind four operations.

Small objects are written on condition, so that of concurrent publishers one wins and none corrupts.
"""

import os
import shutil
from pathlib import Path
from typing import Protocol

from equilibrate_core.artifacts import sha256_file, write_text
from equilibrate_core.errors import StorageError
from equilibrate_core.s3 import (
    exists,
    put_if_absent,
    read_object,
    replace_if_match,
    upload_file,
)
from equilibrate_core.s3_uris import is_s3


class Destination(Protocol):
    """What publication needs of a place."""

    def uri(self, name: str) -> str:
        """Full address of a name below the destination."""
        ...

    def upload(self, file: Path, name: str) -> None:
        """Copy a file and verify its digest at the destination."""
        ...

    def read(self, name: str) -> tuple[str, str] | None:
        """Text of a small object and the version it has, or None when it is not there."""
        ...

    def write(self, name: str, text: str, version: str | None) -> bool:
        """Write a small object if it still has `version` (None: is absent); False if it has not."""
        ...


class S3Destination:
    """A prefix in an object store."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.rstrip("/")

    def uri(self, name: str) -> str:
        """Full s3:// address of a name."""
        return f"{self.prefix}/{name}"

    def upload(self, file: Path, name: str) -> None:
        """Upload with a SHA-256 that the store checks and reports."""
        upload_file(file, self.uri(name))

    def read(self, name: str) -> tuple[str, str] | None:
        """Text and ETag."""
        if not exists(self.uri(name)):
            return None
        content, etag = read_object(self.uri(name))
        return content.decode(), etag

    def write(self, name: str, text: str, version: str | None) -> bool:
        """Conditional PUT."""
        uri, content = self.uri(name), text.encode()
        if version is None:
            return put_if_absent(uri, content) is not None
        return replace_if_match(uri, content, version) is not None


class FolderDestination:
    """A folder on this machine, for one publisher at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def uri(self, name: str) -> str:
        """Path of a name."""
        return str(self.folder / name)

    def upload(self, file: Path, name: str) -> None:
        """Copy through a temporary name and compare digests."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(file, temporary)
        if sha256_file(temporary) != sha256_file(file):
            raise StorageError(f"{target}: the copy differs from {file}; check the disk")
        os.replace(temporary, target)

    def read(self, name: str) -> tuple[str, str] | None:
        """Text, which is its own version."""
        path = self.folder / name
        if not path.is_file():
            return None
        text = path.read_bytes().decode()  # read_text would turn \r\n into \n
        return text, text

    def write(self, name: str, text: str, version: str | None) -> bool:
        """Write when the content is still the one read."""
        current = self.read(name)
        if (current[1] if current else None) != version:
            return False
        write_text(self.folder / name, text)
        return True


def open_destination(uri: str) -> Destination:
    """The destination of an s3:// prefix or a folder."""
    return S3Destination(uri) if is_s3(uri) else FolderDestination(Path(uri))
