"""Where checkpoints lie: a local folder or an s3:// prefix behind one small interface.

Small objects are written on a condition (leases); folders appear whole or not at all.
"""

import fcntl
import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from equilibrate_core import s3
from equilibrate_core.artifacts import MANIFEST, remove
from equilibrate_core.errors import StorageError
from equilibrate_core.s3_uris import is_s3, join_uri
from equilibrate_core.scratch_folders import open_scratch, scratch


class Store(ABC):
    """One folder of a disk or of an object store; names are relative to it."""

    seen_by_all_nodes: bool
    """Whether every node of a training sees the very folder that `draft` gives one of them."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @abstractmethod
    def read(self, name: str) -> tuple[bytes, str] | None:
        """Content and tag of a small object, None when there is none."""

    @abstractmethod
    def put_if_absent(self, name: str, content: bytes) -> str | None:
        """Write an object nobody has written yet; its tag, or None when someone had."""

    @abstractmethod
    def replace_if_match(self, name: str, content: bytes, tag: str) -> str | None:
        """Replace the object that still has `tag`; the new tag, or None when it changed."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders in it, whole or not."""

    @abstractmethod
    def draft(self, name: str) -> Path:
        """An empty local folder to fill and to publish as `name`."""

    @abstractmethod
    def add(self, draft: Path, name: str) -> None:
        """Add another node's draft to the folder `name`, before the one with the manifest."""

    @abstractmethod
    def publish(self, draft: Path, name: str) -> None:
        """Make a filled draft, manifest included, the folder `name`, whole or not at all."""

    @abstractmethod
    @contextmanager
    def fetched(self, name: str) -> Generator[Path]:
        """A local folder with the content of `name`, for the length of the block."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a folder, its manifest first: half removed it does not look whole."""


def open_store(uri: str) -> Store:
    """The store at an s3:// URI or a path."""
    return S3Store(uri.rstrip("/")) if is_s3(uri) else LocalStore(uri.rstrip("/"))


class LocalStore(Store):
    """A folder on a disk that all writers see."""

    seen_by_all_nodes = True

    @property
    def _root(self) -> Path:
        return Path(self.uri)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See Store."""
        try:
            content = (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content, hashlib.sha256(content).hexdigest()

    def put_if_absent(self, name: str, content: bytes) -> str | None:
        """See Store; a link is made only where there is no such name, and with its content."""
        self._root.mkdir(parents=True, exist_ok=True)
        with self._written(content) as temporary:
            try:
                os.link(temporary, self._root / name)
            except FileExistsError:
                return None
        return hashlib.sha256(content).hexdigest()

    def replace_if_match(self, name: str, content: bytes, tag: str) -> str | None:
        """See Store; a file lock keeps other replacers out meanwhile."""
        with (self._root / f".{name}.lock").open("w") as lock, self._written(content) as temporary:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.read(name)
            if found is None or found[1] != tag:
                return None
            os.link(temporary, f"{temporary}.new")
            os.replace(f"{temporary}.new", self._root / name)
        return hashlib.sha256(content).hexdigest()

    def folders(self) -> list[str]:
        """See Store."""
        return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    def draft(self, name: str) -> Path:
        """See Store; on the same disk, so that publishing is a rename."""
        folder = self._root / f".{name}"
        remove(folder)
        folder.mkdir(parents=True)
        return folder

    def add(self, draft: Path, name: str) -> None:
        """See Store; never needed, since all nodes fill one draft."""
        raise NotImplementedError

    def publish(self, draft: Path, name: str) -> None:
        """See Store."""
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        os.replace(draft, self._root / name)

    @contextmanager
    def fetched(self, name: str) -> Generator[Path]:
        """See Store; read in place."""
        yield self._root / name

    def remove(self, name: str) -> None:
        """See Store."""
        (self._root / name / MANIFEST).unlink(missing_ok=True)
        remove(self._root / name)

    @contextmanager
    def _written(self, content: bytes) -> Generator[str]:
        handle, temporary = tempfile.mkstemp(dir=self._root, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            os.unlink(temporary)


class S3Store(Store):
    """A prefix of a bucket; every upload is verified by the store's checksum."""

    seen_by_all_nodes = False

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._lock: int | None = None

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See Store."""
        uri = join_uri(self.uri, name)
        if not s3.exists(uri):
            return None
        try:
            return s3.read_object(uri)
        except StorageError:
            if s3.exists(uri):
                raise
            return None  # it went between the look and the reading

    def put_if_absent(self, name: str, content: bytes) -> str | None:
        """See Store."""
        return s3.put_if_absent(join_uri(self.uri, name), content)

    def replace_if_match(self, name: str, content: bytes, tag: str) -> str | None:
        """See Store."""
        return s3.replace_if_match(join_uri(self.uri, name), content, tag)

    def folders(self) -> list[str]:
        """See Store."""
        names = (item.name for item in s3.list_objects(f"{self.uri}/"))
        return sorted({name.split("/")[0] for name in names if "/" in name})

    def draft(self, name: str) -> Path:
        """See Store."""
        if self._lock is not None:
            os.close(self._lock)  # of the draft before this one
        draft, self._lock = open_scratch()
        return draft

    def add(self, draft: Path, name: str) -> None:
        """See Store."""
        s3.upload_folder(draft, join_uri(self.uri, name))

    def publish(self, draft: Path, name: str) -> None:
        """See Store; the manifest goes last, and `name` is used once only."""
        s3.upload_folder(draft, join_uri(self.uri, name))
        remove(draft)

    @contextmanager
    def fetched(self, name: str) -> Generator[Path]:
        """See Store."""
        with scratch() as folder:
            s3.download_folder(join_uri(self.uri, name), folder)
            yield folder

    def remove(self, name: str) -> None:
        """See Store."""
        s3.remove_folder(join_uri(self.uri, name))
