"""Imported models on a shared volume: weights are stored once, artifacts carry everything else.

Where EQUILIBRATE_MODEL_CACHE names a folder, `shelve` moves the weights of a finished model
artifact there, under the artifact's digest, so that the pipeline does not copy them through S3 into
every task; `unshelve` leads a task from such an artifact to the whole model. The artifact keeps its
manifest, so that a reader without the volume is told what is missing.
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from equilibrate_core.artifacts import MANIFEST, read_manifest, verify_artifact
from equilibrate_core.errors import ArtifactError, StorageError, UserError

CACHE_VARIABLE = "EQUILIBRATE_MODEL_CACHE"
WEIGHTS = ".safetensors"
OLD_DRAFT_S = 24 * 3600
"""A copy in which nothing was written for so long is no longer being made."""
SHELF = "sha256-"
"""Begins the name of a model's folder on the volume; its digest follows."""
logger = logging.getLogger(__name__)


def shelve(artifact: Path) -> None:
    """Move a model's weights to the shared volume; does nothing where there is none.

    What lies there already is read and compared with its manifest: a damaged copy is replaced.
    """
    shelf = _shelf(artifact)
    if shelf is None:
        return
    found = shelf.exists()
    if found and (what := _damage(shelf)):
        logger.warning("%s; it is replaced by what was imported now", what)
        _set_aside(shelf)
        found = False
    if not found:
        _remove_old_drafts(shelf)
        draft = shelf.with_name(f".{shelf.name}.{uuid.uuid4().hex}")
        _copy(artifact, draft)
        try:
            os.rename(draft, shelf)
        except OSError:  # another task was first; its copy has the same digest
            shutil.rmtree(draft)
            if not shelf.exists():
                raise
    for weights in artifact.glob(f"*{WEIGHTS}"):
        weights.unlink()


def _copy(artifact: Path, draft: Path) -> None:
    """Copy whole or not at all: half a model would fill the volume of all pipelines for good."""
    try:
        shutil.copytree(artifact, draft)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
            raise StorageError(
                f"{draft.parent} ({CACHE_VARIABLE}): the {size / 2**30:.1f} GiB of {artifact.name} "
                f"could not be copied there: {' '.join(str(error).split()):.300}; make room there"
            ) from error
        raise


def _remove_old_drafts(shelf: Path) -> None:
    """Remove what copies of this model left behind that were killed."""
    for draft in shelf.parent.glob(f".{shelf.name}.*"):
        with suppress(OSError):
            if time.time() - _last_change(draft) > OLD_DRAFT_S:
                shutil.rmtree(draft)


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def unshelve(artifact: Path) -> Path:
    """The whole model of an artifact: on the shared volume if its weights were moved there.

    Raises ArtifactError when neither has them.
    """
    if not (artifact / MANIFEST).is_file():
        return artifact
    files = read_manifest(artifact).files
    absent = [n for n in files if n.endswith(WEIGHTS) and not (artifact / n).exists()]
    if not absent:
        return artifact
    shelf = _shelf(artifact)
    if shelf is not None and shelf.is_dir():
        return shelf
    raise ArtifactError(
        f"{artifact / absent[0]}: missing, and {CACHE_VARIABLE} ({shelf or 'not set'}) does not "
        "have the model either; raise kubeflow.cache_epoch, so that import_model runs again"
    )


@contextmanager
def damage_set_aside(folders: Iterable[Path]) -> Generator[None]:
    """Within the block an ArtifactError makes sure that no later task meets a damaged shelf again.

    Of `folders` those on the shared volume are read whole, and only then: a stage verifies what it
    reads anyway. A damaged one is taken out of the way, and the error says what brings it back.
    """
    try:
        yield
    except UserError as error:
        if not isinstance(error, ArtifactError) and type(error) is not UserError:
            raise  # what torchrun's processes found comes as a plain UserError
        volume = os.environ.get(CACHE_VARIABLE)
        shelves = [f for f in folders if volume and f.parent == Path(volume)]
        damaged = {shelf: what for shelf in shelves if (what := _damage(shelf))}
        if not damaged:
            raise
        for shelf in damaged:
            _set_aside(shelf)
        raise ArtifactError(
            f"{'; '.join(damaged.values())}: the model on the shared volume is damaged; raise "
            "kubeflow.cache_epoch, so that import_model runs again and replaces it"
        ) from error


def _damage(shelf: Path) -> str:
    """What is wrong with a model on the shared volume; empty when it is as sealed."""
    try:
        manifest = verify_artifact(shelf)
    except ArtifactError as error:
        return str(error)
    sealed = f"{SHELF}{manifest.digest}" == shelf.name
    return "" if sealed else f"{shelf}: holds another model, {manifest.digest}"


def _set_aside(shelf: Path) -> None:
    """Take a damaged shelf out of the way; where this task may not, import_model will.

    By a rename, so that of two tasks one does it, and no reader sees half a model.
    """
    aside = shelf.with_name(f".damaged-{uuid.uuid4().hex}")
    try:
        os.rename(shelf, aside)
    except OSError as error:  # a pod of a TrainJob sees the volume read-only; or it is gone already
        logger.warning("%s: could not be set aside: %s", shelf, error)
    else:
        logger.warning("%s: damaged, removed", shelf)
        shutil.rmtree(aside, ignore_errors=True)


def _shelf(artifact: Path) -> Path | None:
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) / f"{SHELF}{read_manifest(artifact).digest}" if folder else None
