"""Artifacts: directories that are whole or absent, each sealed by a manifest.

A writer fills a hidden sibling folder, hashes every file, writes `manifest.json` last and renames
the folder into place. A reader verifies every file, since stores upload in any order and the
manifest's presence alone proves nothing.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from equilibrate_core.errors import ArtifactError, StageError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
NUM_HASHERS = 2


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    num_bytes: int


class Counts(BaseModel):
    """What became of the rows a stage read; they add up or the artifact is not written."""

    model_config = ConfigDict(extra="forbid")
    read: int = 0
    kept: int = 0
    quarantined: int = 0
    dropped: dict[str, int] = {}

    def drop(self, reason: str, number: int = 1) -> None:
        """Count `number` rows as dropped for `reason`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number

    def check(self) -> None:
        """Raise StageError unless read = kept + quarantined + dropped."""
        parts = self.kept + self.quarantined + sum(self.dropped.values())
        if self.read != parts:
            raise StageError(
                f"counts do not add up: read {self.read} but kept {self.kept} + quarantined "
                f"{self.quarantined} + dropped {self.dropped} = {parts}"
            )


class Manifest(BaseModel):
    """What an artifact holds and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_name: str
    """Record name for datasets; `model`, `scorer`, `report`, … otherwise."""
    schema_version: int = SCHEMA_VERSION
    stage: str
    rows: int | None = None
    """Rows of a dataset; None for other artifacts."""
    files: dict[str, FileEntry]
    counts: Counts | None = None
    config: dict[str, Any]
    resolved: dict[str, str] = {}
    """What fields of the config that leave it to the machine (`auto`) came to, by dotted name."""
    inputs: dict[str, str]
    """Content digest of every input artifact, by the stage's argument name."""
    code_version: str
    packages: dict[str, str] = {}
    """Versions of the libraries that the stage's figures rest on, as installed where it ran."""
    seed: int
    started: datetime
    ended: datetime

    @property
    def digest(self) -> str:
        """Digest of the content alone: equal files give equal digests, whenever they were made."""
        lines = [f"{name} {entry.sha256}" for name, entry in sorted(self.files.items())]
        return hashlib.sha256("\n".join([self.schema_name, *lines]).encode()).hexdigest()


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=sha256_file(path), num_bytes=path.stat().st_size)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(artifact: Path) -> Manifest:
    """Manifest of an artifact, unverified. Raises ArtifactError when there is none to read."""
    path = artifact / MANIFEST
    if not artifact.exists():
        raise ArtifactError(f"{artifact}: no such artifact; check the path, or run its stage first")
    if not path.is_file():
        raise ArtifactError(
            f"{artifact}: not an artifact: it has no {MANIFEST} (half-written, or another folder)"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path}: unreadable: {where}: {first['msg']}") from error


def verify_artifact(artifact: Path, schema_name: str | None = None) -> Manifest:
    """Manifest of an artifact whose every file was read and found as sealed.

    Raises ArtifactError naming the first file that is missing, altered or unexpected, or when
    `schema_name` is given and the artifact holds something else.
    """
    manifest = read_manifest(artifact)
    if schema_name is not None and manifest.schema_name != schema_name:
        raise ArtifactError(
            f"{artifact}: holds {manifest.schema_name!r}, but {schema_name!r} is needed here"
        )
    present = {name for name in _files(artifact) if name != MANIFEST}
    for name in sorted(present ^ set(manifest.files)):
        what = "missing" if name in manifest.files else "not in the manifest"
        raise ArtifactError(
            f"{artifact / name}: {what}; copy the artifact again or rerun its stage"
        )
    for name, entry in manifest.files.items():
        path = artifact / name
        if path.stat().st_size != entry.num_bytes or sha256_file(path) != entry.sha256:
            raise ArtifactError(
                f"{path}: content differs from its manifest; copy it again or rerun its stage"
            )
    return manifest


@dataclass
class Draft:
    """An artifact being written: fill `path`, set `rows` and `counts`."""

    path: Path
    counts: Counts | None = None
    rows: int | None = None


@dataclass(frozen=True)
class StageRun:
    """One execution of one stage: its provenance, and the way to its outputs."""

    stage: str
    config: dict[str, Any]
    seed: int
    code_version: str
    inputs: dict[str, str]
    packages: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, str] = field(default_factory=dict)
    """See Manifest: for a stage to fill once it knows."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @contextmanager
    def output(self, destination: Path, schema_name: str) -> Generator[Draft]:
        """Yield a draft whose folder becomes `destination` only if the block ends without error.

        A half-written or earlier artifact at `destination` is cleared first.
        """
        draft_path = destination.parent / f".{destination.name}.draft"
        for stale in (destination, draft_path):
            remove(stale)
        draft_path.mkdir(parents=True)
        draft = Draft(draft_path)
        try:
            yield draft
            self._seal(draft, schema_name)
            os.replace(draft_path, destination)
        finally:
            remove(draft_path)

    def _seal(self, draft: Draft, schema_name: str) -> None:
        if draft.counts is not None:
            draft.counts.check()
        names = sorted(_files(draft.path))
        with ThreadPoolExecutor(NUM_HASHERS) as pool:  # hashing leaves Python's lock to others
            entries = pool.map(_entry, (draft.path / name for name in names))
            files = dict(zip(names, entries, strict=True))
        manifest = Manifest(
            schema_name=schema_name,
            stage=self.stage,
            rows=draft.rows,
            files=files,
            counts=draft.counts,
            config=self.config,
            resolved=self.resolved,
            inputs=self.inputs,
            code_version=self.code_version,
            packages=self.packages,
            seed=self.seed,
            started=self.started,
            ended=datetime.now(UTC),
        )
        write_text(draft.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary name and a rename, so that it is never seen half-written.

    Of several writers one wins: each has a temporary name of its own.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a manifest's config by dotted name, sections opened."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, keys in the given order, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
