"""README, report and SHA256SUMS beside a published model: one report's, whoever else publishes.

The model's prefix is addressed by the policy alone, but several reports may speak of one policy.
Each one's documents are whole under `reports/<digest>/` before anything else names them.
SHA256SUMS, written on condition, says whose also stand beside the model: the first one's. Every
publisher puts exactly those there, so that the next one completes what a killed one left half-done.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from components.publish_model.destination import Destination
from equilibrate_core.artifacts import FileEntry, Manifest, sha256_file
from equilibrate_core.errors import StorageError

CHECKSUMS = "SHA256SUMS"
REPORT_FILES = ("report.json", "report.html")
DOCUMENTS = ("README.md", *REPORT_FILES)
MAX_CLAIMS = 3
"""Once somebody else's claim stands nobody replaces it: the second try finds it."""


def publish_documents(
    destination: Destination, folder: str, documents: Mapping[str, Path], model_sums: str
) -> str:
    """Publish the documents of one report; returns their own place below `folder`.

    `model_sums` are the lines of SHA256SUMS about the model's files.
    """
    own = checksum_lines({name: sha256_file(path) for name, path in documents.items()})
    place = _place(own)
    for name, path in documents.items():
        destination.upload(path, f"{folder}/{place}/{name}")
    destination.write(f"{folder}/{place}/{CHECKSUMS}", own, None)  # the last: they are whole
    first = _claim(destination, folder, own, model_sums)
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in documents.items():
            source = path
            if first != own:
                source = _fetch(destination, f"{folder}/{_place(first)}/{name}", Path(scratch))
            destination.upload(source, f"{folder}/{name}")
    return place


def publish_manifest(destination: Destination, name: str, manifest: Path) -> None:
    """Publish the policy's manifest unless another run's of the very same files stands there.

    Two runs may make equal policies at other times: publishers must not write over each other's.
    """
    files = Manifest.model_validate_json(manifest.read_bytes()).files
    for _ in range(MAX_CLAIMS):
        current = destination.read(name)
        if current is not None and _files(current[0]) == files:
            return
        version = current[1] if current else None
        if destination.write(name, manifest.read_bytes().decode(), version):
            return
    raise StorageError(
        f"{destination.uri(name)}: others keep changing it; run the stage again when they are done"
    )


def checksum_lines(digests: Mapping[str, str]) -> str:
    """SHA-256 by file name as `sha256sum` prints it."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(digests.items()))


def _claim(destination: Destination, folder: str, own: str, model_sums: str) -> str:
    """Whose documents stand beside the model, as their checksums: ours unless others were first.

    A SHA256SUMS that names no documents under `reports/`, or another model's files, is replaced: it
    was altered, or written by a version that had no such folder.
    """
    name = f"{folder}/{CHECKSUMS}"
    for _ in range(MAX_CLAIMS):
        current = destination.read(name)
        if current is not None:
            theirs = "".join(line for line in _lines(current[0]) if _name(line) in DOCUMENTS)
            whole = destination.read(f"{folder}/{_place(theirs)}/{CHECKSUMS}")
            if current[0] == _merged(theirs, model_sums) and whole and whole[0] == theirs:
                return theirs
        version = current[1] if current else None
        if destination.write(name, _merged(own, model_sums), version):
            return own
    raise StorageError(
        f"{destination.uri(name)}: others keep changing it; run the stage again when they are done"
    )


def _fetch(destination: Destination, name: str, scratch: Path) -> Path:
    found = destination.read(name)
    if found is None:
        raise StorageError(
            f"{destination.uri(name)}: gone, though SHA256SUMS beside the model names it; delete "
            "that SHA256SUMS and run the stage again"
        )
    path = scratch / Path(name).name
    path.write_bytes(found[0].encode())
    return path


def _files(manifest: str) -> dict[str, FileEntry] | None:
    try:
        return Manifest.model_validate_json(manifest).files
    except ValidationError:
        return None


def _place(sums: str) -> str:
    return f"reports/{hashlib.sha256(sums.encode()).hexdigest()}"


def _merged(documents: str, model: str) -> str:
    return "".join(sorted(_lines(documents + model), key=_name))


def _lines(sums: str) -> list[str]:
    return sums.splitlines(keepends=True)


def _name(line: str) -> str:
    return line.rstrip("\n").partition("  ")[2]
