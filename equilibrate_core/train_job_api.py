"""The few calls to Kubernetes that launching and following a TrainJob needs.

A Cluster and names -> objects, TrainJobs and workflows as dictionaries.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from kubernetes import client, watch
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from equilibrate_core import kubernetes_api
from equilibrate_core.kubernetes_api import (
    CALL_TIMEOUT_S,
    Cluster,
    passes,
    patiently,
    reason,
    refusal,
)
from equilibrate_core.train_job import GROUP, NODE, PLURAL, VERSION

WATCH_S = 300
"""Seconds after which the server ends a watch; silence is noticed a little later."""
FIRST_CONTACT_ROUNDS = 5
logger = logging.getLogger(__name__)


def get_job(cluster: Cluster, name: str, *, rounds: int | None = None) -> dict[str, Any] | None:
    """A TrainJob, or None when there is none of this name."""

    def get() -> Any:
        return cluster.custom.get_namespaced_custom_object(
            GROUP, VERSION, cluster.namespace, PLURAL, name, _request_timeout=CALL_TIMEOUT_S
        )

    return patiently(f"TrainJob {name}", lambda: _or_none(get), rounds=rounds)


def create_job(cluster: Cluster, job: dict[str, Any]) -> None:
    """Create a TrainJob unless one of its name is there, made by us a moment ago or by another."""
    name = job["metadata"]["name"]

    def create() -> None:
        try:
            cluster.custom.create_namespaced_custom_object(
                GROUP, VERSION, cluster.namespace, PLURAL, job, _request_timeout=CALL_TIMEOUT_S
            )
        except ApiException as error:
            if error.status != 409:
                raise

    patiently(f"TrainJob {name}", create)


def delete_job(cluster: Cluster, name: str, uid: str, *, rounds: int | None = None) -> None:
    """Delete this very TrainJob; it is listed until its pods are gone."""
    options = client.V1DeleteOptions(
        propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=uid)
    )

    def delete() -> Any:
        return cluster.custom.delete_namespaced_custom_object(
            GROUP,
            VERSION,
            cluster.namespace,
            PLURAL,
            name,
            body=options,
            _request_timeout=CALL_TIMEOUT_S,
        )

    patiently(f"TrainJob {name}", lambda: _or_none(delete, (404, 409)), rounds=rounds)


def list_jobs(cluster: Cluster, label: str) -> list[dict[str, Any]]:
    """TrainJobs with a label (`name=value`)."""
    return patiently(
        "TrainJobs",
        lambda: _list_jobs(cluster, {"label_selector": label}),
        rounds=FIRST_CONTACT_ROUNDS,
    )["items"]


def job_states(cluster: Cluster, name: str) -> Iterator[dict[str, Any] | None]:
    """The job as it is now, and again whenever it changes, without end; None once it is gone.

    A watch that breaks off, runs out or has become too old is begun again from a fresh look.
    """
    while True:
        # A list, since a watch goes on from its version: the job's own may be of long ago.
        found = patiently(f"TrainJob {name}", lambda: _list_jobs(cluster, _only(name)))
        job = found["items"][0] if found["items"] else None
        yield job
        if job is None:
            return
        try:
            for event in _watch(cluster, name, found["metadata"]["resourceVersion"]):
                if event["type"] == "DELETED":
                    break
                yield event["object"]
        except (ApiException, HTTPError, ConnectionError) as error:
            if not passes(error) and getattr(error, "status", 0) != 410:
                raise refusal(f"TrainJob {name}", error) from error
            logger.info("TrainJob %s: looking anew: %s", name, reason(error))
            time.sleep(kubernetes_api.FIRST_DELAY_S)


def node_pods(cluster: Cluster, job: str, node: int | None = None) -> list[Any]:
    """Pods of a job's nodes (or of one node), the newest first; restarts leave several."""
    labels = f"jobset.sigs.k8s.io/jobset-name={job},jobset.sigs.k8s.io/replicatedjob-name={NODE}"
    if node is not None:
        labels += f",batch.kubernetes.io/job-completion-index={node}"
    pods = cluster.core.list_namespaced_pod(
        cluster.namespace, label_selector=labels, _request_timeout=CALL_TIMEOUT_S
    ).items
    return sorted(pods, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)


def open_log(cluster: Cluster, pod: str, query: dict[str, str], read_timeout_s: float) -> Any:
    """The log of a node's container as a stream of bytes, every line with its time.

    Not by read_namespaced_pod_log: the client leaves out `sinceTime`.
    """
    return cluster.core.api_client.call_api(
        f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/log",
        "GET",
        query_params=[("container", NODE), ("timestamps", "true"), *query.items()],
        auth_settings=["BearerToken"],
        _return_http_data_only=True,
        _preload_content=False,
        _request_timeout=(CALL_TIMEOUT_S[0], read_timeout_s),
    )


def own_pod(cluster: Cluster) -> Any | None:
    """The pod that this process runs in; None outside of one."""
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")

    def read() -> Any:
        return cluster.core.read_namespaced_pod(
            name, cluster.namespace, _request_timeout=CALL_TIMEOUT_S
        )

    return patiently(f"pod {name}", lambda: _or_none(read), rounds=FIRST_CONTACT_ROUNDS)


def get_workflow(cluster: Cluster, name: str) -> dict[str, Any] | None:
    """The Argo workflow of a run; asked once, in a hurry."""

    def get() -> Any:
        return cluster.custom.get_namespaced_custom_object(
            "argoproj.io", "v1alpha1", cluster.namespace, "workflows", name, _request_timeout=(2, 5)
        )

    return patiently(f"workflow {name}", lambda: _or_none(get), rounds=1)


def _list_jobs(cluster: Cluster, selector: dict[str, str]) -> Any:
    return cluster.custom.list_namespaced_custom_object(
        GROUP,
        VERSION,
        cluster.namespace,
        PLURAL,
        **selector,
        _request_timeout=CALL_TIMEOUT_S,
    )


def _only(name: str) -> dict[str, str]:
    return {"field_selector": f"metadata.name={name}"}


def _watch(cluster: Cluster, name: str, version: str) -> Iterator[dict[str, Any]]:
    events: Any = watch.Watch().stream(
        cluster.custom.list_namespaced_custom_object,
        GROUP,
        VERSION,
        cluster.namespace,
        PLURAL,
        **_only(name),
        resource_version=version,
        timeout_seconds=WATCH_S,
        _request_timeout=(CALL_TIMEOUT_S[0], WATCH_S + CALL_TIMEOUT_S[1]),
    )
    return events


def _or_none(call: Callable[[], Any], statuses: tuple[int, ...] = (404,)) -> Any:
    try:
        return call()
    except ApiException as error:
        if error.status in statuses:
            return None
        raise
