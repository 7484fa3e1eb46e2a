"""Run a training as a TrainJob: start or find it, follow it, collect its result, clean it up.

A Training and a placement -> its scalars. The launching task trains nothing itself: it waits as
long as the job lives and fails when that fails. Started again, it follows the job that its earlier
attempt started.
"""

import logging

from equilibrate_core.artifacts import MANIFEST
from equilibrate_core.errors import EquilibrateError, Preempted, StageError
from equilibrate_core.json_objects import read_json_object
from equilibrate_core.kubernetes_api import Cluster, connect
from equilibrate_core.node_errors import told_error
from equilibrate_core.node_placement import NodePlacement
from equilibrate_core.pod_logs import streamed_log, write_tails
from equilibrate_core.preemption import ToldToStop, sigterm_raises
from equilibrate_core.s3 import clear_folder, exists
from equilibrate_core.s3_uris import join_uri
from equilibrate_core.stage import Metrics
from equilibrate_core.train_job import RUN_LABEL, Owner, Training, train_job
from equilibrate_core.train_job_api import delete_job, get_job, get_workflow, own_pod
from equilibrate_core.train_job_watch import start_or_find, wait_for_end
from equilibrate_core.train_node import METRICS

logger = logging.getLogger(__name__)


def run_train_job(training: Training, placement: NodePlacement) -> Metrics:
    """Run a training as a TrainJob and return its scalars. Raises what stopped it.

    On SIGTERM the job of a cancelled run is deleted; otherwise it goes on, and the next attempt of
    this task follows it.
    """
    cluster = connect()
    owner = _owner(cluster)
    job = train_job(training, placement, owner)
    name = job["metadata"]["name"]
    try:
        with sigterm_raises():  # the run was cancelled, or this pod is being moved
            uid = start_or_find(cluster, job, lambda: _clear(training))["metadata"]["uid"]
            with streamed_log(cluster, name, _print):
                ending = wait_for_end(cluster, name, uid)
    except ToldToStop:
        raise Preempted(_after_sigterm(cluster, name, owner)) from None
    except KeyboardInterrupt:
        _delete_now(cluster, name)
        raise
    if not ending.complete:
        write_tails(cluster, name, _print)
        raise _told_error(training) or StageError(f"TrainJob {name} failed: {ending.why}")
    return _result(training, name)


def _owner(cluster: Cluster) -> Owner | None:
    """The run that this pod belongs to, by the references and labels of the pod itself."""
    pod = own_pod(cluster)
    references = (pod.metadata.owner_references or []) if pod is not None else []
    workflow = next((r for r in references if r.kind == "Workflow"), None)
    if pod is None or workflow is None:
        logger.warning("this pod belongs to no workflow: deleting the run will not delete its job")
        return None
    labels = pod.metadata.labels or {}
    return Owner(labels.get(RUN_LABEL, ""), workflow.name, workflow.uid)


def _clear(training: Training) -> None:
    """Remove what an earlier job of this output left: errors, and an output half written."""
    for uri in (training.result_uri, training.output[1]):
        clear_folder(uri)


def _told_error(training: Training) -> EquilibrateError | None:
    """What stopped the first node that could say it."""
    told = (told_error(training.result_uri, n) for n in range(training.config.num_nodes))
    return next((error for error in told if error is not None), None)


def _result(training: Training, name: str) -> Metrics:
    scalars = read_json_object(join_uri(training.result_uri, METRICS))
    if scalars is None or not exists(join_uri(training.output[1], MANIFEST)):
        raise StageError(
            f"TrainJob {name} completed, but {training.output[1]} is not whole; delete the job, "
            "then run this task again"
        )
    return scalars


def _after_sigterm(cluster: Cluster, name: str, owner: Owner | None) -> str:
    """Delete the job of a cancelled run; what became of it, in words."""
    if owner is not None and _is_cancelled(cluster, owner):
        _delete_now(cluster, name)
        return f"the run was cancelled: TrainJob {name} is deleted"
    return f"told to stop: TrainJob {name} goes on, and the next attempt of this task follows it"


def _delete_now(cluster: Cluster, name: str) -> None:
    """Delete the job; each call is tried once, since this process is about to be killed."""
    job = get_job(cluster, name, rounds=1)
    if job is not None:
        delete_job(cluster, name, job["metadata"]["uid"], rounds=1)


def _is_cancelled(cluster: Cluster, owner: Owner) -> bool:
    """Whether the run itself is at its end; a pod that is only being moved has a live workflow.

    Kubeflow cancels by a deadline of 0, Argo by `shutdown`. Without an answer the job goes on.
    """
    try:
        workflow = get_workflow(cluster, owner.workflow)
    except EquilibrateError as error:
        logger.warning("%s", error)
        return False
    if workflow is None or workflow["metadata"]["uid"] != owner.workflow_uid:
        return True
    spec = workflow.get("spec", {})
    cancelled = bool(spec.get("shutdown")) or spec.get("activeDeadlineSeconds") == 0
    return cancelled or "deletionTimestamp" in workflow["metadata"]


def _print(line: str) -> None:
    print(line, flush=True)
