"""Publish the policy if its gate passed: digest-addressed, verified, then the alias moves.

policy + report -> files at the destination and a publication record. A refused gate is no failure:
the run ends green and unpublished, with the reason recorded.
"""

import json
import logging
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.publish_model.config import PublishModelConfig
from components.publish_model.destination import Destination, open_destination
from components.publish_model.documents import (
    CHECKSUMS,
    DOCUMENTS,
    REPORT_FILES,
    checksum_lines,
    publish_documents,
    publish_manifest,
)
from components.publish_model.model_card import model_card
from components.publish_model.registry import register_model, registry_token
from equilibrate_core.artifacts import (
    MANIFEST,
    Manifest,
    read_manifest,
    write_json,
    write_text,
)
from equilibrate_core.errors import StageError, StorageError
from equilibrate_core.progress import Progress
from equilibrate_core.stage import Metrics, stage_main, start_stage

logger = logging.getLogger(__name__)
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
        if config.model_registry is not None:
            registry_token(config.model_registry)  # what is missing must show before the upload
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
    """Model, documents, manifest (so that it stands for a whole model), alias: in this order."""
    folder = f"{config.name}/sha256-{manifest.digest}"
    names = _published_names(manifest)
    with tempfile.TemporaryDirectory() as scratch:
        card = Path(scratch) / "README.md"
        write_text(card, model_card(config.name, manifest, content))
        documents = {"README.md": card, **{name: report / name for name in REPORT_FILES}}
        with Progress("publish", total=len(names), unit="file") as progress:
            for own, name in names.items():
                destination.upload(policy / own, f"{folder}/{name}")
                progress.advance(1, name)
        sums = checksum_lines({name: manifest.files[own].sha256 for own, name in names.items()})
        place = publish_documents(destination, folder, documents, sums)
        publish_manifest(destination, f"{folder}/{MANIFEST}", policy / MANIFEST)
    record = _record(config, destination.uri(folder), manifest, content, reason=None)
    record["report_uri"] = destination.uri(f"{folder}/{place}")
    newer = _move_alias(config, destination, record)
    if newer is not None:
        record["alias_stays_at"] = newer["uri"]
    if config.model_registry is not None:
        record["model_registry"] = register_model(config.model_registry, record)
    return record


def _published_names(manifest: Manifest) -> dict[str, str]:
    """Name there of each of the policy's files.

    A policy may bring files of its own by the names of ours (a README.md from its base model):
    they are kept as `original.<name>`, never in place of ours, and SHA256SUMS says what is what.
    """
    taken = {*DOCUMENTS, CHECKSUMS}
    return {n: f"original.{n}" if n in taken else n for n in sorted(manifest.files)}


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


def _move_alias(
    config: PublishModelConfig, destination: Destination, record: Publication
) -> Publication | None:
    """Point `latest.json` at the model, overwriting nobody unseen and nobody who decided later.

    Returns the record of such a one, at which the alias stays.
    """
    name = f"{config.name}/latest.json"
    for _ in range(config.max_alias_attempts):
        current = destination.read(name)
        newer = _decided_later(current[0], record) if current else None
        if newer is not None:
            logger.warning(
                "%s stays at %s, decided at %s, later than this publication: the model is complete "
                "at %s",
                destination.uri(name),
                newer["uri"],
                newer["decided"],
                record["uri"],
            )
            return newer
        if destination.write(name, _text(record), current[1] if current else None):
            return None
    raise StorageError(
        f"{destination.uri(name)}: others kept moving it during {config.max_alias_attempts} tries; "
        f"the model is complete at {record['uri']}, run the stage again to move the alias"
    )


def _decided_later(text: str, record: Publication) -> Publication | None:
    """The alias's record where its decision is later than ours; an unreadable one is replaced."""
    try:
        other = json.loads(text)
        is_later = datetime.fromisoformat(other["decided"]) > datetime.fromisoformat(
            record["decided"]
        )
    except (ValueError, TypeError, KeyError):
        return None
    return other if is_later else None


def _text(record: Publication) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    raise SystemExit(stage_main(publish_model, PublishModelConfig))
