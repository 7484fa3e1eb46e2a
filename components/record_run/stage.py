"""Record how a run ended, whatever happened before.

final state (+ the run API) -> one small JSON object at the destination; a run that completed with
something new also becomes what the next one compares its inputs with.
"""

import logging
import re
from datetime import UTC, datetime
from typing import Any

from components.record_run.config import RecordRunConfig
from components.record_run.run_api import RunView, ask_run
from equilibrate_core.errors import EquilibrateError
from equilibrate_core.json_objects import read_json_object, write_json_object

logger = logging.getLogger(__name__)
# The local runner and the Kubeflow backend name the same outcome differently.
OUTCOMES = {
    **dict.fromkeys(("SUCCEEDED", "COMPLETE", "COMPLETED", "SUCCESS", "CACHED"), "succeeded"),
    **dict.fromkeys(("FAILED", "FAILURE", "ERROR"), "failed"),
    **dict.fromkeys(("CANCELED", "CANCELLED", "CANCELING"), "canceled"),
}


def record_run(
    config: RecordRunConfig,
    *,
    run_name: str,
    state: str,
    error_code: int,
    error_message: str,
    run_id: str = "",
    started: str = "",
) -> str:
    """Write the record of a run's end and return its URI."""
    ended = datetime.now(UTC)
    _delete_train_jobs(config, run_id)
    view, api_error = _ask(config, run_id)
    prefix = config.destination_uri.rstrip("/")
    resolved = read_json_object(f"{prefix}/inputs/{run_id}.json") if run_id else None
    began = _time(view.started if view else "") or _time(started)
    record: dict[str, Any] = {
        "run": run_name,
        "run_id": run_id,
        "outcome": _outcome(state, view),
        "state": state,
        "news": resolved["news"] if resolved else None,
        "failed_task": view.failed_task if view else None,
        "error_code": error_code,
        "error_message": error_message or (view.failed_reason if view else ""),
        "api_error": api_error,
        "started": began.isoformat() if began else None,
        "ended": ended.isoformat(),
        "duration_s": round((ended - began).total_seconds(), 1) if began else None,
        "inputs": resolved["inputs"] if resolved else None,
    }
    uri = f"{prefix}/runs/{_file_name(run_name, run_id)}.json"
    write_json_object(uri, record)
    if resolved and resolved["news"] == "changed" and record["outcome"] == "succeeded":
        done = {"run": run_name, "run_id": run_id, "ended": record["ended"]}
        done |= {key: resolved[key] for key in ("fingerprint", "inputs")}
        done["published"] = _published(resolved.get("published_uri", ""))
        write_json_object(f"{prefix}/completed/{config.pipeline}.json", done)
    logger.info("%s: %s", uri, record["outcome"])
    return uri


def _published(uri: str) -> str | None:
    """The model that is published when a run ends; None tells the next one that none is missing."""
    latest = read_json_object(f"{uri}/latest.json") if uri else None
    return str(latest["uri"]) if latest else None


def _delete_train_jobs(config: RecordRunConfig, run_id: str) -> None:
    """Stop what a cancelled run, or one whose launching pods died, has left running."""
    if not (config.train_jobs and run_id):
        return
    from equilibrate_core.kubernetes_api import connect
    from equilibrate_core.train_job_watch import delete_unfinished

    try:
        delete_unfinished(connect(), run_id)
    except EquilibrateError as error:  # the record matters more
        logger.warning("%s", error)


def _ask(config: RecordRunConfig, run_id: str) -> tuple[RunView | None, str]:
    if not (config.api_url and run_id):
        return None, ""
    try:
        return ask_run(config.api_url, run_id, config.api_timeout_s), ""
    except (EquilibrateError, OSError) as error:  # the record matters more than its details
        logger.warning("%s", error)
        return None, str(error)


def _outcome(state: str, view: RunView | None) -> str:
    """Outcome of a state's name; a state that says nothing yields to what the tasks say."""
    known = OUTCOMES.get(state.upper())
    if known is not None:
        return known
    if view is None or not view.num_tasks:
        return "unknown"
    return "failed" if view.failed_task else "succeeded"


def _file_name(run_name: str, run_id: str) -> str:
    """Names of runs may repeat and hold anything; the id makes them unique."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run_name).strip("-.") or "run"
    return f"{name}-{run_id}" if run_id and run_id not in name else name


def _time(text: str) -> datetime | None:
    """Time of an RFC 3339 text; None for anything else, such as a placeholder nobody filled."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
