"""Checkpoints of a training run: whole or absent, found again only by the very same run.

engine + training state -> `<checkpoint_uri>/<stage>-<digest>/step-…/`, and back. The digest covers
config, inputs, code, libraries and number of processes; every file is verified before it is loaded.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from equilibrate_core.artifacts import MANIFEST, FileEntry, StageRun
from equilibrate_core.checkpoint_manifest import (
    CheckpointManifest,
    check_whole,
    file_entries,
    identity_of,
    matching,
)
from equilibrate_core.checkpoint_store import Store, open_store
from equilibrate_core.engine_state import (
    load_engine,
    save_engine,
    save_random_state,
    set_random_state,
)
from equilibrate_core.errors import AlteredError, ArtifactError, StorageError
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
RETRY_AFTER_S = 60.0
"""Seconds until a failed save is tried again; longer where the failed one took longer, so that a
store that is down takes half of a run's time at most."""
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
        self._retry_at = 0.0
        self._passed_over: set[str] = set()

    def due(self, step: int, num_steps: int) -> bool:
        """Whether a checkpoint is to be saved after `step` steps; only process 0 knows the time.

        Raises StageError when another run has taken the lease.
        """
        self.lease.check()
        now = time.monotonic()
        if now < self._retry_at and step < num_steps:
            return False
        return (
            step == num_steps
            or step - self._saved_step >= self.config.checkpoint_every_steps
            or (now - self._saved_at) / 60 >= self.config.checkpoint_every_minutes
        )

    def save(self, engine: Any, state: TrainingState) -> bool:
        """Save a checkpoint and return whether it is there.

        A store that fails is warned of, since the run can go on without; `due` says when to try
        again.
        """
        started = time.monotonic()
        name = from_process_0(lambda: f"step-{state.step:08d}-{self.lease.owner}")
        once = from_process_0 if self.store.seen_by_all_nodes else from_first_of_node
        draft = once(lambda: self._new_draft(name))
        saved = self._written(engine, draft) and self._stored(Path(draft), name, state)
        alone = dist.get_rank() == 0 or (not self.store.seen_by_all_nodes and is_first_of_node())
        if alone and draft:
            shutil.rmtree(draft, ignore_errors=True)  # what was not stored must not fill the disk
        now = time.monotonic()
        if saved:
            self._saved_at, self._saved_step = now, state.step
        else:
            self._retry_at = now + max(RETRY_AFTER_S, now - started)
        return saved

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
        from_process_0(self._prune)
        logger.info("%s: resuming after step %d", self.store.uri, state.step)
        self._saved_at, self._saved_step = time.monotonic(), state.step
        return state

    def _new_draft(self, name: str) -> str:
        """An empty folder for this node's files; no name where there is no room for one."""
        try:
            return str(self.store.draft(name))
        except OSError as error:
            self._warn(error)
            return ""

    def _written(self, engine: Any, draft: str) -> bool:
        """Whether every process has written its part into its node's draft."""
        if not all(from_every_process(draft)):
            return False
        written = True
        try:
            save_engine(engine, Path(draft))
            save_random_state(Path(draft) / f"random-{dist.get_rank():05d}.pt")
        except OSError as error:
            self._warn(error)
            written = False
        return all(from_every_process(written))

    def _stored(self, draft: Path, name: str, state: TrainingState) -> bool:
        """Whether all nodes' drafts are in the store, as one checkpoint."""
        others = self._other_nodes_files(draft, name)
        return from_process_0(
            lambda: others is not None and self._published(draft, name, state, others)
        )

    def _warn(self, error: Exception) -> None:
        logger.warning("%s: checkpoint not saved: %s", self.store.uri, error)

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
                self._warn(error)
                added = None
        merged: dict[str, FileEntry] = {}
        for files in from_every_process(added):
            if files is None:
                return None
            merged |= files
        return merged

    def _published(
        self, draft: Path, name: str, state: TrainingState, others: dict[str, FileEntry]
    ) -> bool:
        self.lease.check()
        try:
            record = {"step": state.step, "logs": state.logs}
            (draft / STATE_FILE).write_text(json.dumps(record))
            self._publish(draft, name, state.step, others)
        except (StorageError, OSError) as error:
            self._warn(error)
            return False
        return True

    def _publish(self, draft: Path, name: str, step: int, others: dict[str, FileEntry]) -> None:
        files = others | file_entries(draft)
        manifest = CheckpointManifest(identity=self.identity, step=step, files=files)
        (draft / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        self.store.publish(draft, name)
        self._prune()

    def _prune(self) -> None:
        """Remove all but the latest whole checkpoints, and what a killed run left half-written.

        One that arrives altered neither counts nor goes: the fault may be on the way.
        """
        try:
            names = self.store.folders()
            sealed = {n: self._is_sealed(n) for n in names if n not in self._passed_over}
            whole = [name for name in sorted(sealed) if sealed[name]]
            kept = whole[-self.config.checkpoint_keep :]
            for name in sealed:
                if sealed[name] is not None and name not in kept:
                    self.store.remove(name)
        except (StorageError, OSError) as error:
            logger.warning("%s: older checkpoints not removed: %s", self.store.uri, error)

    def _is_sealed(self, name: str) -> bool | None:
        """Whether a checkpoint has a manifest; None where it is altered.

        A name with a dot is a draft that was not renamed: its manifest may be there already.
        """
        try:
            return not name.startswith(".") and self.store.read(f"{name}/{MANIFEST}") is not None
        except AlteredError:
            return None

    def _candidates(self) -> list[tuple[int, str, Store]]:
        """Step, name and store of every checkpoint to go on from, the latest first."""
        found: list[tuple[int, str, Store]] = []
        explicit = self.config.checkpoint_resume_from
        if explicit is not None:
            parent, _, name = explicit.rstrip("/").rpartition("/")
            named = open_store(parent or ".")
            found.append((matching(named, name, self.identity), name, named))
        for name in self.store.folders():
            if self._is_sealed(name) is False:
                continue
            try:
                found.append((matching(self.store, name, self.identity), name, self.store))
            except (AlteredError, ArtifactError) as error:
                logger.warning("%s; trying an older checkpoint", error)
                self._passed_over.add(name)
        return sorted(found, key=lambda candidate: candidate[:2], reverse=True)

    def _newest(self, stack: ExitStack) -> tuple[str, str, str] | None:
        """The latest whole checkpoint: its store, name, and local folder until the stack closes."""
        candidates = self._candidates()
        for _, name, store in candidates:
            try:
                with ExitStack() as attempt:
                    folder = attempt.enter_context(store.fetched(name))
                    check_whole(folder, f"{store.uri}/{name}")
                    stack.enter_context(attempt.pop_all())
                    return store.uri, name, str(folder)
            except (AlteredError, ArtifactError) as error:
                if len(candidates) == 1 and self.config.checkpoint_resume_from is not None:
                    raise ArtifactError(f"{error}; name another checkpoint_resume_from") from error
                logger.warning("%s; trying an older checkpoint", error)
                self._passed_over.add(name)
        return None


def _fetched(stack: ExitStack, uri: str, name: str) -> str:
    """Local folder of the checkpoint that node 0 chose, on another node."""
    folder = stack.enter_context(open_store(uri).fetched(name))
    check_whole(folder, f"{uri}/{name}")
    return str(folder)
