"""Publish the policy if its gate passed: digest-addressed, verified, then the alias moves.

policy + report -> files at the destination and a publication record. A refused gate is no failure:
the run ends green and unpublished, with the reason recorded.
"""

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.publish_model.config import PublishModelConfig
from components.publish_model.destination import Destination, open_destination
from components.publish_model.model_card import model_card
from components.publish_model.registry import register_model
from equilibrate_core.artifacts import (
    MANIFEST,
    Manifest,
    read_manifest,
    sha256_file,
    write_json,
    write_text,
)
from equilibrate_core.errors import StageError, StorageError
from equilibrate_core.progress import Progress
from equilibrate_core.stage import Metrics, stage_main, start_stage

REPORT_FILES = ("report.json", "report.html")
CHECKSUMS = "SHA256SUMS"
Publication = dict[str, Any]


def publish_model(
    config: PublishModelConfig, *, policy: Path, report: Path, publication: Path
) -> Metrics:
    """Publish the evaluated policy, or record why it was refused."""
    run = start_stage("publish_model", config, policy=policy, report=report)
    manifest = read_manifest(policy)
    content = json.loads((report / "report.json").read_text(encoding="utf-8"))
    if content["policy_digest"] != manifest.digest:
        raise StageError(
            f"the report was written for policy {content['policy_digest'][:12]}, not for "
            f"{manifest.digest[:12]}: only the evaluated policy may be published; rerun the report"
        )
    destination = open_destination(config.destination_uri)
    if content["gate"]["passed"]:
        record = _publish(config, destination, manifest, policy, report, content)
    else:
        record = _refuse(config, destination, manifest, content)
    with run.output(publication, "publication") as draft:
        write_json(draft.path / "publication.json", record)
        for name in REPORT_FILES:
            shutil.copy2(report / name, draft.path / name)
    return {"published": float(record["published"])}


def _publish(
    config: PublishModelConfig,
    destination: Destination,
    manifest: Manifest,
    policy: Path,
    report: Path,
    content: dict[str, Any],
) -> Publication:
    folder = f"{config.name}/sha256-{manifest.digest}"
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(config, Path(scratch), manifest, policy, report, content)
        with Progress("publish", total=len(files), unit="file") as progress:
            for name, path in files.items():
                destination.upload(path, f"{folder}/{name}")
                progress.advance(1, name)
    record = _record(config, destination.uri(folder), manifest, content, reason=None)
    _move_alias(config, destination, record)
    if config.model_registry is not None:
        record["model_registry"] = register_model(config.model_registry, record)
    return record


def _files(
    config: PublishModelConfig,
    scratch: Path,
    manifest: Manifest,
    policy: Path,
    report: Path,
    content: dict[str, Any],
) -> dict[str, Path]:
    """What is published, by name there; the manifest last, so that it stands for a whole model.

    A policy may bring files of its own by the names of ours (a README.md from its base model):
    they are kept as `original.<name>`, never in place of ours, and SHA256SUMS says what is what.
    """
    write_text(scratch / "README.md", model_card(config.name, manifest, content))
    ours = {"README.md": scratch / "README.md", **{name: report / name for name in REPORT_FILES}}
    taken = {*ours, CHECKSUMS}
    model = {f"original.{n}" if n in taken else n: policy / n for n in sorted(manifest.files)}
    files = {**ours, **model}
    sums = "".join(f"{sha256_file(path)}  {name}\n" for name, path in sorted(files.items()))
    write_text(scratch / CHECKSUMS, sums)
    return {**files, CHECKSUMS: scratch / CHECKSUMS, MANIFEST: policy / MANIFEST}


def _refuse(
    config: PublishModelConfig,
    destination: Destination,
    manifest: Manifest,
    content: dict[str, Any],
) -> Publication:
    failed = [c for c in content["gate"]["conditions"] if not c["passed"]]
    reason = "the gate refused: " + "; ".join(c["explanation"] for c in failed)
    record = _record(config, None, manifest, content, reason=reason)
    name = f"{config.name}/refused/{manifest.digest}.json"
    current = destination.read(name)
    destination.write(name, _text(record), current[1] if current else None)
    return record


def _record(
    config: PublishModelConfig,
    uri: str | None,
    manifest: Manifest,
    content: dict[str, Any],
    *,
    reason: str | None,
) -> Publication:
    return {
        "published": uri is not None,
        "name": config.name,
        "uri": uri,
        "reason": reason,
        "digest": manifest.digest,
        "gate": content["gate"],
        "decided": datetime.now(UTC).isoformat(),
    }


def _move_alias(config: PublishModelConfig, destination: Destination, record: Publication) -> None:
    """Point `latest.json` at the model, giving way to nobody and overwriting nobody unseen."""
    name = f"{config.name}/latest.json"
    for _ in range(config.max_alias_attempts):
        current = destination.read(name)
        if destination.write(name, _text(record), current[1] if current else None):
            return
    raise StorageError(
        f"{destination.uri(name)}: others kept moving it during {config.max_alias_attempts} tries; "
        f"the model is complete at {record['uri']}, run the stage again to move the alias"
    )


def _text(record: Publication) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    raise SystemExit(stage_main(publish_model, PublishModelConfig))
