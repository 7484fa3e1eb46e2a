"""Checkpoints of a training run: whole or absent, found again only by the very same run.

engine + training state -> `<checkpoint_uri>/<stage>-<digest>/step-…/`, and back. The digest covers
config, inputs, code, libraries and number of processes; every file is verified before it is loaded.
"""

import json
import logging
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from equilibrate_core.artifacts import MANIFEST, FileEntry, StageRun, remove
from equilibrate_core.checkpoint_manifest import (
    CheckpointManifest,
    check_whole,
    file_entries,
    identity_of,
    matching,
)
from equilibrate_core.checkpoint_store import Store, open_store
from equilibrate_core.engine_state import load_engine, random_state, save_engine, set_random_state
from equilibrate_core.errors import ArtifactError, StorageError
from equilibrate_core.file_waits import (
    from_every_process,
    from_first_of_node,
    from_process_0,
    is_first_of_node,
    node_number,
    wait_for_all,
)
from equilibrate_core.lease import Lease
from equilibrate_core.records import digest
from equilibrate_core.training_config import TrainingConfig

STATE_FILE = "training_state.json"
logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """How far a run is, beside what the engine holds."""

    step: int = 0
    """Steps done, those included that had nothing to train on."""
    logs: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """One record per optimizer step."""


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
        name = from_process_0(lambda: f"step-{state.step:08d}-{self.lease.owner}")
        once = from_process_0 if self.store.seen_by_all_nodes else from_first_of_node
        draft = Path(once(lambda: str(self.store.draft(name))))
        save_engine(engine, draft)
        torch.save(random_state(), draft / f"random-{dist.get_rank():05d}.pt")
        wait_for_all()
        others = self._other_nodes_files(draft, name)
        if dist.get_rank() == 0 and others is not None:
            record = {"step": state.step, "logs": state.logs}
            (draft / STATE_FILE).write_text(json.dumps(record))
            self.lease.check()
            try:
                self._publish(draft, name, state.step, others)
            except (StorageError, OSError) as error:
                logger.warning("%s: checkpoint not saved: %s", self.store.uri, error)
        wait_for_all()
        if not self.store.seen_by_all_nodes and is_first_of_node():
            remove(draft)  # what could not be stored must not fill the disk
        self._saved_at, self._saved_step = time.monotonic(), state.step

    def resume(self, engine: Any) -> TrainingState:
        """Put the engine where the latest whole checkpoint left it; a fresh state without one.

        Raises ConfigError for a checkpoint of another run, ArtifactError for a broken one that
        was named explicitly.
        """
        with ExitStack() as stack:
            found = from_process_0(lambda: self._newest(stack))
            if found is None:
                return TrainingState()
            uri, name, here = found
            on_node_0 = node_number() == 0
            folder = Path(
                from_first_of_node(lambda: here if on_node_0 else _fetched(stack, uri, name))
            )
            state = TrainingState(**json.loads((folder / STATE_FILE).read_text()))
            load_engine(engine, folder)
            path = folder / f"random-{dist.get_rank():05d}.pt"
            set_random_state(torch.load(path, weights_only=True))
            wait_for_all()
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
        if not self.store.seen_by_all_nodes and node_number() > 0 and is_first_of_node():
            try:
                added = file_entries(draft)
                self.store.add(draft, name)
            except (StorageError, OSError) as error:
                logger.warning("%s: checkpoint not saved: %s", self.store.uri, error)
                added = None
        merged: dict[str, FileEntry] = {}
        for files in from_every_process(added):
            if files is None:
                return None
            merged |= files
        return merged

    def _publish(self, draft: Path, name: str, step: int, others: dict[str, FileEntry]) -> None:
        files = others | file_entries(draft)
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
            candidates.append((matching(named, name, self.identity), named, name))
        for name in self.store.folders():
            if not name.startswith(".") and self.store.read(f"{name}/{MANIFEST}") is not None:
                step = matching(self.store, name, self.identity)
                candidates.append((step, self.store, name))
        for _, store, name in sorted(candidates, key=lambda c: (c[0], c[2]), reverse=True):
            folder = stack.enter_context(store.fetched(name))
            try:
                check_whole(folder, f"{store.uri}/{name}")
            except ArtifactError as error:
                if len(candidates) == 1 and explicit is not None:
                    raise ArtifactError(f"{error}; name another checkpoint_resume_from") from error
                logger.warning("%s; trying an older checkpoint", error)
                continue
            return store.uri, name, str(folder)
        return None


def _fetched(stack: ExitStack, uri: str, name: str) -> str:
    """Local folder of the checkpoint that node 0 chose, on another node."""
    folder = stack.enter_context(open_store(uri).fetched(name))
    check_whole(folder, f"{uri}/{name}")
    return str(folder)
