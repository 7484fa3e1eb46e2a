"""A TrainJob from its creation to its end: found again, waited for, deleted.

An object to create -> how the job of its name ended. There is no time-out: the job itself has one,
which does not count what it waits in a queue.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from equilibrate_core.errors import StageError
from equilibrate_core.kubernetes_api import Cluster
from equilibrate_core.train_job import RUN_LABEL
from equilibrate_core.train_job_api import create_job, delete_job, get_job, job_states, list_jobs

POLL_S = 2.0
REMINDER_S = 600.0
"""Seconds after which an unchanged state is said again."""
logger = logging.getLogger(__name__)
Job = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a job ended."""

    complete: bool
    why: str


def start_or_find(cluster: Cluster, job: Job, prepare: Callable[[], None]) -> Job:
    """The running or completed job of this name; created where there is none.

    One that failed was an earlier attempt's: it is deleted and made anew. One that is being deleted
    is waited for. `prepare` is called before a job is created.
    """
    name = job["metadata"]["name"]
    found = get_job(cluster, name)
    if found is not None and _condition(found, "Failed") and not _is_going(found):
        logger.info("TrainJob %s failed in an earlier attempt; it starts again", name)
        delete_job(cluster, name, found["metadata"]["uid"])
        found = get_job(cluster, name)
    while found is not None and _is_going(found):
        logger.info("TrainJob %s: waiting until its pods of before are gone", name)
        time.sleep(POLL_S)
        found = get_job(cluster, name)
    if found is not None:
        logger.info("TrainJob %s is there: following it", name)
        return found
    prepare()
    create_job(cluster, job)
    found = get_job(cluster, name)
    if found is None:
        raise StageError(f"TrainJob {name} was deleted as soon as it was created")
    logger.info("TrainJob %s: created", name)
    return found


def wait_for_end(cluster: Cluster, name: str, uid: str) -> Ending:
    """Wait until this very job ends, saying what it does. Raises StageError when it is deleted."""
    said, said_at = "", time.monotonic()
    for job in job_states(cluster, name):
        if job is None or job["metadata"]["uid"] != uid:
            break
        for kind in ("Complete", "Failed"):
            condition = _condition(job, kind)
            if condition is not None:
                return Ending(kind == "Complete", _words(condition))
        state = _state(job)
        if state != said or time.monotonic() - said_at >= REMINDER_S:
            logger.info("TrainJob %s: %s", name, state)
            said, said_at = state, time.monotonic()
    raise StageError(f"TrainJob {name} was deleted before it ended; run this task again")


def delete_unfinished(cluster: Cluster, run_id: str) -> int:
    """Delete the jobs that a run has left running; how many there were."""
    left = [
        job
        for job in list_jobs(cluster, f"{RUN_LABEL}={run_id}")
        if not (_condition(job, "Complete") or _condition(job, "Failed") or _is_going(job))
    ]
    for job in left:
        name = job["metadata"]["name"]
        logger.info("TrainJob %s: deleted, since its run has ended", name)
        delete_job(cluster, name, job["metadata"]["uid"], rounds=3)
    return len(left)


def _state(job: Job) -> str:
    """One line: waiting in the queue, starting or running."""
    suspended = _condition(job, "Suspended")
    if suspended is not None:
        return f"waiting in the queue ({_words(suspended)})"
    if job["spec"].get("suspend"):
        return "waiting in the queue"
    nodes = job.get("status", {}).get("jobsStatus") or []
    if nodes and all(node.get("ready") for node in nodes):
        return "running on all nodes"
    return "its pods are starting"


def _condition(job: Job, kind: str) -> Job | None:
    conditions = job.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def _words(condition: Job) -> str:
    return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")


def _is_going(job: Job) -> bool:
    return "deletionTimestamp" in job["metadata"]
