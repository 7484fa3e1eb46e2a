"""What seals a checkpoint, and which run may go on from it.

A stage's run -> its identity; a folder -> the digests of its files; a checkpoint in a store -> its
step, or what differs between the run that wrote it and this one.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from equilibrate_core.artifacts import MANIFEST, FileEntry, StageRun, sha256_file
from equilibrate_core.checkpoint_store import Store
from equilibrate_core.errors import ArtifactError, ConfigError

LIBRARIES = ("torch", "deepspeed", "transformers", "peft")


class CheckpointManifest(BaseModel):
    """Seal of a checkpoint, written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: dict[str, Any]
    """What must be equal for a run to go on from here."""
    step: int
    files: dict[str, FileEntry]


def identity_of(run: StageRun, num_processes: int) -> dict[str, Any]:
    """What makes two runs the same: all that can change a result; not where it is saved."""
    config = dict(run.config)
    config["training"] = {
        name: value
        for name, value in config["training"].items()
        if not name.startswith("checkpoint_")
    }
    return {
        "stage": run.stage,
        "config": config,
        "inputs": run.inputs,
        "code": run.code_version,
        "libraries": {name: version(name) for name in LIBRARIES},
        "num_processes": num_processes,
    }


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Digest and size of every file of a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(
            sha256=sha256_file(path), num_bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def matching(store: Store, name: str, identity: Mapping[str, Any]) -> int:
    """Step of a checkpoint of this very run.

    Raises ConfigError naming what differs, ArtifactError where there is no readable manifest, and
    AlteredError where the store finds it altered.
    """
    where = f"{store.uri}/{name}"
    found = store.read(f"{name}/{MANIFEST}")
    if found is None:
        raise ArtifactError(
            f"{where}: no checkpoint: it has no {MANIFEST} (absent, or half-written)"
        )
    try:
        manifest = CheckpointManifest.model_validate_json(found[0])
    except ValidationError as error:
        raise ArtifactError(f"{where}/{MANIFEST}: not the manifest of a checkpoint") from error
    theirs, ours = _flat(manifest.identity), _flat(identity)
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise ConfigError(
                f"{where}: a checkpoint of another run: {key} was {theirs.get(key)!r} there and is "
                f"{ours.get(key)!r} here; restore it, or start without this checkpoint"
            )
    return manifest.step


def check_whole(folder: Path, where: str) -> None:
    """Raise ArtifactError naming the first file of a checkpoint that is missing or altered."""
    manifest = CheckpointManifest.model_validate_json((folder / MANIFEST).read_bytes())
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != entry.sha256:
            raise ArtifactError(f"{where}: {name} is not as the manifest says")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for name, part in value.items():
        flat |= _flat(part, f"{key}.{name}" if key else str(name))
    return flat
