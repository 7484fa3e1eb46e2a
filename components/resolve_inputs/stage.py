"""resolve_inputs: URIs → a JSON text {uri: digest} that changes when what they lead to does.

The text is a parameter of the tasks that read the URIs, so that their cache sees the content;
an artifact would not do, since its fresh id alone would invalidate everything downstream.
"""

import json
from pathlib import Path
from typing import Literal

from components.resolve_inputs.config import ResolveInputsConfig
from equilibrate_core.artifacts import sha256_file
from equilibrate_core.errors import DataError
from equilibrate_core.hub import SCHEME as HUB_SCHEME
from equilibrate_core.hub import hub_revision
from equilibrate_core.records import digest
from equilibrate_core.s3 import content_digest
from equilibrate_core.s3_uris import is_s3
from equilibrate_core.stage import stage_main


def resolve_inputs(config: ResolveInputsConfig) -> str:
    """Digest of every URI, as one line of JSON with sorted keys.

    Local files and folders by SHA-256, objects by version id or ETag, size and key, hub
    repositories by commit. Raises DataError or StorageError for the first that is not there.
    """
    digests = {source.uri: uri_digest(source.uri, "dataset") for source in config.sources}
    digests |= {uri: uri_digest(uri, "model") for uri in config.uris}
    return json.dumps(digests, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def uri_digest(uri: str, kind: Literal["dataset", "model"]) -> str:
    """Digest of what one URI leads to now, prefixed with how it was found."""
    if is_s3(uri):
        return f"s3:{content_digest(uri)}"
    if uri.startswith(HUB_SCHEME):
        is_dataset = kind == "dataset" or uri.startswith(f"{HUB_SCHEME}datasets/")
        return f"hf:{hub_revision(uri, 'dataset' if is_dataset else 'model')}"
    path = Path(uri.removeprefix("file://"))
    if path.is_file():
        return f"sha256:{sha256_file(path)}"
    if path.is_dir():
        return f"sha256:{_folder_digest(path)}"
    raise DataError(f"{uri}: no such file or folder (relative paths start at {Path.cwd()})")


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"{folder}: an empty folder; check the path")
    return digest([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])


if __name__ == "__main__":
    raise SystemExit(stage_main(resolve_inputs, ResolveInputsConfig))
