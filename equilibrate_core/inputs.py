"""What a URI leads to now: a digest, and whether it is still the one that a run began with."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from equilibrate_core.artifacts import sha256_file
from equilibrate_core.errors import DataError
from equilibrate_core.hub import SCHEME as HUB_SCHEME
from equilibrate_core.hub import hub_revision
from equilibrate_core.records import digest
from equilibrate_core.s3 import content_digest
from equilibrate_core.s3_uris import is_s3

Kind = Literal["dataset", "model"]
HUB_DIGEST = "hf:"
"""Begins the digest of a hub repository; its commit follows."""
Section = TypeVar("Section", bound=BaseModel)


def uri_digest(uri: str, kind: Kind) -> str:
    """Digest of what one URI leads to now, prefixed with how it was found."""
    if is_s3(uri):
        return f"s3:{content_digest(uri)}"
    if uri.startswith(HUB_SCHEME):
        is_dataset = kind == "dataset" or uri.startswith(f"{HUB_SCHEME}datasets/")
        return f"{HUB_DIGEST}{hub_revision(uri, 'dataset' if is_dataset else 'model')}"
    path = Path(uri.removeprefix("file://"))
    if path.is_file():
        return f"sha256:{sha256_file(path)}"
    if path.is_dir():
        return f"sha256:{_folder_digest(path)}"
    raise DataError(f"{uri}: no such file or folder (relative paths start at {Path.cwd()})")


def check_unchanged(input_digests: str, section: Any, kind: Kind) -> None:
    """Raise DataError if something that a config section names is not what the run began with.

    `input_digests` is what resolve_inputs gave, {uri: digest} as JSON: the cache takes it for the
    content that was read, which has to be true.
    """
    before = json.loads(input_digests)
    for uri in before.keys() & set(_strings(section)):
        if uri_digest(uri, kind) != before[uri]:
            raise DataError(f"{uri}: was changed after the run had begun; start the run again")


def pinned(section: Section, input_digests: str) -> Section:
    """A config section with every hub repository in it at the commit that the run began with.

    A branch may move at any time: what is read is what was resolved, not what it leads to by then.
    """
    digests: dict[str, str] = json.loads(input_digests)
    before = section.model_dump(mode="json")
    after = _pinned(before, digests)
    return section if after == before else type(section).model_validate(after)


def _pinned(value: Any, digests: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_pinned(item, digests) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: _pinned(item, digests) for name, item in value.items()}
    uri, revision = found.get("uri"), found.get("revision")
    resolved = digests.get(f"{uri}@{revision}" if revision else str(uri), "")
    if resolved.startswith(HUB_DIGEST):
        found["uri"] = f"{str(uri).partition('@')[0]}@{resolved.removeprefix(HUB_DIGEST)}"
        if revision:
            found["revision"] = None
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"{folder}: an empty folder; check the path")
    return digest([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])
