"""Imported models on a shared volume: weights are stored once, artifacts carry everything else.

Where EQUILIBRATE_MODEL_CACHE names a folder, `shelve` moves the weights of a finished model
artifact there, under the artifact's digest, so that the pipeline does not copy them through S3 into
every task; `unshelve` leads a task from such an artifact to the whole model. The artifact keeps its
manifest, so that a reader without the volume is told what is missing.
"""

import os
import shutil
import uuid
from pathlib import Path

from equilibrate_core.artifacts import MANIFEST, read_manifest
from equilibrate_core.errors import ArtifactError

CACHE_VARIABLE = "EQUILIBRATE_MODEL_CACHE"
WEIGHTS = ".safetensors"


def shelve(artifact: Path) -> None:
    """Move a model's weights to the shared volume; does nothing where there is none."""
    shelf = _shelf(artifact)
    if shelf is None:
        return
    if not shelf.exists():
        draft = shelf.with_name(f".{shelf.name}.{uuid.uuid4().hex}")
        shutil.copytree(artifact, draft)
        try:
            os.rename(draft, shelf)
        except OSError:  # another task was first; its copy has the same digest
            shutil.rmtree(draft)
            if not shelf.exists():
                raise
    for weights in artifact.glob(f"*{WEIGHTS}"):
        weights.unlink()


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


def _shelf(artifact: Path) -> Path | None:
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) / f"sha256-{read_manifest(artifact).digest}" if folder else None
