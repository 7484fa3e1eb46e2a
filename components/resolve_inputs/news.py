"""Decide whether there is anything new since the last completed run.

digests of the inputs + settings + the last record + what was published -> `changed` or `nothing
new`. What was resolved is left at `<records>/inputs/<run id>.json`, where record_run finds it.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.resolve_inputs.config import CHANGED, NOTHING_NEW, ResolveInputsConfig
from equilibrate_core.artifacts import MANIFEST, sha256_file
from equilibrate_core.errors import ConfigError
from equilibrate_core.json_objects import read_json_object, write_json_object
from equilibrate_core.records import digest
from equilibrate_core.s3 import stored_digest
from equilibrate_core.s3_uris import is_s3

logger = logging.getLogger(__name__)


def find_news(config: ResolveInputsConfig, digests: str, *, run_id: str, settings: str) -> str:
    """`changed`, or `nothing new`; always `changed` unless `skip_unchanged` is on."""
    if not config.skip_unchanged:
        return CHANGED
    if not (config.records_uri and config.pipeline and run_id):
        raise ConfigError(
            "resolve_inputs.skip_unchanged: needs pipeline, records_uri and a run id, which the "
            "pipeline fills in; for a single stage leave it off"
        )
    fingerprint = digest([json.loads(digests), settings])
    reason = _reason(config, json.loads(digests), fingerprint)
    news = CHANGED if reason else NOTHING_NEW
    logger.info("%s: %s", news, reason or "the last completed run had the same inputs and settings")
    record: dict[str, Any] = {
        "pipeline": config.pipeline,
        "news": news,
        "reason": reason,
        "fingerprint": fingerprint,
        "inputs": json.loads(digests),
        "published_uri": config.published_uri,
        "resolved": datetime.now(UTC).isoformat(),
    }
    write_json_object(f"{config.records_uri.rstrip('/')}/inputs/{run_id}.json", record)
    return news


def _reason(config: ResolveInputsConfig, digests: dict[str, str], fingerprint: str) -> str:
    """Why the run must go on; empty when it need not."""
    uri = f"{config.records_uri.rstrip('/')}/completed/{config.pipeline}.json"
    last = read_json_object(uri)
    if last is None:
        return "no run has completed yet"
    before = last["inputs"]
    changed = sorted(k for k in {*digests, *before} if digests.get(k) != before.get(k))
    if changed:
        return f"changed inputs: {', '.join(changed)}"
    if last["fingerprint"] != fingerprint:
        return "the settings or the code changed"
    if not config.published_uri:
        return ""
    # A record from before `published` was kept does not say that nothing was.
    return damage(config.published_uri, was_published=last.get("published", "") is not None)


def damage(published_uri: str, *, was_published: bool) -> str:
    """What is missing or altered of the model that `latest.json` names; empty when it is whole.

    Without one that is so as well where nothing `was_published`: the gate refused.
    """
    latest = read_json_object(f"{published_uri}/latest.json")
    if latest is None:
        gone = f"the published model is damaged: {published_uri}/latest.json is gone"
        return gone if was_published else ""
    manifest = read_json_object(f"{latest['uri']}/{MANIFEST}")
    if manifest is None:
        return f"the published model is damaged: {latest['uri']}/{MANIFEST} is gone"
    for name, entry in manifest["files"].items():
        uri = f"{latest['uri']}/{name}"
        # publish_model keeps a policy's own README.md and the like as original.<name>.
        own = f"{latest['uri']}/original.{name}"
        if _sha256(uri) != entry["sha256"] != _sha256(own):
            return f"the published model is damaged: {uri} is gone or altered"
    return ""


def _sha256(uri: str) -> str | None:
    if is_s3(uri):
        return stored_digest(uri)
    return sha256_file(Path(uri)) if Path(uri).is_file() else None
