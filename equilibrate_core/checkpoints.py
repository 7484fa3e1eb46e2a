"""Checkpoints of a training run: whole or absent, found again only by the very same run.

engine + training state -> `<checkpoint_uri>/<stage>-<digest>/step-…/`, and back. The digest covers
config, inputs, code, libraries and number of processes. DeepSpeed writes and reads its own files;
they are loaded as tensors and a few named classes alone, after their digests were verified.
"""

import json
import logging
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from pydantic import BaseModel, ConfigDict, ValidationError

from equilibrate_core.artifacts import MANIFEST, FileEntry, StageRun, remove, sha256_file
from equilibrate_core.checkpoint_store import Store, open_store
from equilibrate_core.errors import ArtifactError, ConfigError, StorageError
from equilibrate_core.lease import Lease
from equilibrate_core.records import digest
from equilibrate_core.training_config import TrainingConfig

ENGINE = "engine"
STATE_FILE = "training_state.json"
LIBRARIES = ("torch", "deepspeed", "transformers")
DEEPSPEED_CLASSES: list[Any] = [LossScaler, ZeroStageEnum, fragment_address]
"""What DeepSpeed's files hold besides tensors and plain values."""
logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """How far a run is, beside what the engine holds."""

    step: int = 0
    """Steps done, those included that had nothing to train on."""
    logs: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """One record per optimizer step."""


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


@contextmanager
def checkpoints_of(run: StageRun, config: TrainingConfig) -> Generator["Checkpoints | None"]:
    """Checkpoints of a stage's run, held for the length of the block; None when it saves none."""
    if config.checkpoint_uri is None:
        yield None
        return
    identity = identity_of(run, int(os.environ.get("WORLD_SIZE", "1")))
    folder = f"{run.stage}-{digest(identity)[:16]}"
    store = open_store(f"{config.checkpoint_uri.rstrip('/')}/{folder}")
    lease = Lease(store)
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":
            stack.enter_context(lease.held())
        yield Checkpoints(store, identity, config, lease)


class Checkpoints:
    """Saves and resumes one run; all its processes call every method together."""

    def __init__(
        self, store: Store, identity: dict[str, Any], config: TrainingConfig, lease: Lease
    ) -> None:
        self.store, self.identity, self.config, self.lease = store, identity, config, lease
        self._saved_at = time.monotonic()
        self._saved_step = 0

    def due(self, step: int, num_steps: int) -> bool:
        """Whether a checkpoint is to be saved after `step` steps; only process 0 knows the time.

        Raises StageError when another run has taken the lease.
        """
        self.lease.check()
        minutes = (time.monotonic() - self._saved_at) / 60
        return (
            step == num_steps
            or step - self._saved_step >= self.config.checkpoint_every_steps
            or minutes >= self.config.checkpoint_every_minutes
        )

    def save(self, engine: Any, state: TrainingState) -> None:
        """Save a checkpoint; a store that fails is warned of, since the run can go on without."""
        name: str = _from_process_0(lambda: f"step-{state.step:08d}-{self.lease.owner}")
        once = _from_process_0 if self.store.seen_by_all_nodes else _from_first_of_node
        draft = Path(once(lambda: str(self.store.draft(name))))
        _save_engine(engine, draft)
        torch.save(_random_state(), draft / f"random-{dist.get_rank():05d}.pt")
        dist.barrier()
        others = self._other_nodes_files(draft, name)
        if dist.get_rank() == 0 and others is not None:
            record = {"step": state.step, "logs": state.logs}
            (draft / STATE_FILE).write_text(json.dumps(record))
            self.lease.check()
            try:
                self._publish(draft, name, state.step, others)
            except (StorageError, OSError) as error:
                logger.warning("%s: checkpoint not saved: %s", self.store.uri, error)
        dist.barrier()
        if not self.store.seen_by_all_nodes and _is_first_of_node():
            remove(draft)  # what could not be stored must not fill the disk
        self._saved_at, self._saved_step = time.monotonic(), state.step

    def resume(self, engine: Any) -> TrainingState:
        """Put the engine where the latest whole checkpoint left it; a fresh state without one.

        Raises ConfigError for a checkpoint of another run, ArtifactError for a broken one that
        was named explicitly.
        """
        with ExitStack() as stack:
            found = _from_process_0(lambda: self._newest(stack))
            if found is None:
                return TrainingState()
            uri, name, here = found
            folder = Path(
                _from_first_of_node(lambda: here if _node() == 0 else _fetched(stack, uri, name))
            )
            state = TrainingState(**json.loads((folder / STATE_FILE).read_text()))
            _load_engine(engine, folder)
            path = folder / f"random-{dist.get_rank():05d}.pt"
            _set_random_state(torch.load(path, weights_only=True))
            dist.barrier()
        if dist.get_rank() == 0:
            self._prune()
        logger.info("%s: resuming after step %d", self.store.uri, state.step)
        self._saved_at, self._saved_step = time.monotonic(), state.step
        return state

    def _other_nodes_files(self, draft: Path, name: str) -> dict[str, FileEntry] | None:
        """Files that the first process of every other node has added to the store.

        None when one of them could not.
        """
        added: dict[str, FileEntry] | None = {}
        if not self.store.seen_by_all_nodes and _node() > 0 and _is_first_of_node():
            try:
                added = _entries(draft)
                self.store.add(draft, name)
            except (StorageError, OSError) as error:
                logger.warning("%s: checkpoint not saved: %s", self.store.uri, error)
                added = None
        told: list[dict[str, FileEntry] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(told, added)
        merged: dict[str, FileEntry] = {}
        for files in told:
            if files is None:
                return None
            merged |= files
        return merged

    def _publish(self, draft: Path, name: str, step: int, others: dict[str, FileEntry]) -> None:
        files = others | _entries(draft)
        manifest = CheckpointManifest(identity=self.identity, step=step, files=files)
        (draft / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        self.store.publish(draft, name)
        self._prune()

    def _prune(self) -> None:
        """Remove all but the latest whole checkpoints, and what a killed run left half-written."""
        names = self.store.folders()
        named = sorted(name for name in names if not name.startswith("."))
        whole = [n for n in named if self.store.read(f"{n}/{MANIFEST}") is not None]
        for name in set(names) - set(whole[-self.config.checkpoint_keep :]):
            self.store.remove(name)

    def _newest(self, stack: ExitStack) -> tuple[str, str, str] | None:
        """The latest whole checkpoint: its store, name, and local folder until the stack closes.

        A name with a dot is a draft that was not renamed: its manifest may be there already.
        """
        explicit = self.config.checkpoint_resume_from
        candidates: list[tuple[int, Store, str]] = []
        if explicit is not None:
            parent, _, name = explicit.rstrip("/").rpartition("/")
            named = open_store(parent or ".")
            candidates.append((_matching(named, name, self.identity), named, name))
        for name in self.store.folders():
            if not name.startswith(".") and self.store.read(f"{name}/{MANIFEST}") is not None:
                step = _matching(self.store, name, self.identity)
                candidates.append((step, self.store, name))
        for _, store, name in sorted(candidates, key=lambda c: (c[0], c[2]), reverse=True):
            folder = stack.enter_context(store.fetched(name))
            broken = _broken_file(folder)
            if broken is None:
                return store.uri, name, str(folder)
            what = f"{store.uri}/{name}: {broken} is not as the manifest says"
            if len(candidates) == 1 and explicit is not None:
                raise ArtifactError(f"{what}; name another checkpoint_resume_from")
            logger.warning("%s; trying an older checkpoint", what)
        return None


def _from_process_0(make: Any) -> Any:
    """What `make` gives on process 0, told to all."""
    box = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _node() -> int:
    return int(os.environ.get("GROUP_RANK", "0"))


def _is_first_of_node() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _from_first_of_node(make: Callable[[], str]) -> str:
    """What `make` gives on the first process of this node, told to the node's others."""
    mine = (_node(), make() if _is_first_of_node() else None)
    told: list[tuple[int, str | None]] = [mine] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return next(value for node, value in told if node == _node() and value is not None)


def _fetched(stack: ExitStack, uri: str, name: str) -> str:
    """Local folder of the checkpoint that node 0 chose, on another node."""
    folder = stack.enter_context(open_store(uri).fetched(name))
    broken = _broken_file(folder)
    if broken is not None:
        raise ArtifactError(f"{uri}/{name}: {broken} is not as the manifest says; try again")
    return str(folder)


def _entries(folder: Path) -> dict[str, FileEntry]:
    return {
        path.relative_to(folder).as_posix(): FileEntry(
            sha256=sha256_file(path), num_bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _matching(store: Store, name: str, identity: Mapping[str, Any]) -> int:
    """Step of a checkpoint of this very run. Raises ConfigError naming what differs."""
    where = f"{store.uri}/{name}"
    found = store.read(f"{name}/{MANIFEST}")
    if found is None:
        raise ConfigError(f"{where}: no checkpoint: it has no {MANIFEST} (absent, or half-written)")
    try:
        manifest = CheckpointManifest.model_validate_json(found[0])
    except ValidationError as error:
        raise ConfigError(f"{where}/{MANIFEST}: not the manifest of a checkpoint") from error
    theirs, ours = _flat(manifest.identity), _flat(identity)
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise ConfigError(
                f"{where}: a checkpoint of another run: {key} was {theirs.get(key)!r} there and is "
                f"{ours.get(key)!r} here; restore it, or start without this checkpoint"
            )
    return manifest.step


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for name, part in value.items():
        flat |= _flat(part, f"{key}.{name}" if key else str(name))
    return flat


def _broken_file(folder: Path) -> str | None:
    """First file of a checkpoint that is missing or altered."""
    manifest = CheckpointManifest.model_validate_json((folder / MANIFEST).read_bytes())
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != entry.sha256:
            return name
    return None


def _save_engine(engine: Any, folder: Path) -> None:
    engine.save_checkpoint(
        str(folder), tag=ENGINE, save_latest=False, exclude_frozen_parameters=True
    )
    if dist.get_rank() == 0:
        for path in folder.glob("*.py"):  # scripts that DeepSpeed drops beside its files
            remove(path)


def _load_engine(engine: Any, folder: Path) -> None:
    """Load without executing what a pickle says: DeepSpeed itself would."""
    all_trained = all(p.requires_grad for p in engine.module.parameters())
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals(DEEPSPEED_CLASSES):
            engine.load_checkpoint(
                str(folder),
                tag=ENGINE,
                load_module_strict=all_trained,
                load_lr_scheduler_states=False,
            )
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
