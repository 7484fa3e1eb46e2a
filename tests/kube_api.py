"""The state of a stand-in cluster: TrainJobs, their pods and logs, and what tests make of them.

A TrainJob is taken only if the Trainer's definition and the base manifests' runtime take it. Tests
tell it what becomes of the job: it can complete, fail, stall, be preempted or queued, and the API
itself can break in every way. `tests.kube_server` speaks HTTP for it.
"""

import itertools
import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.crd_schemas import custom_resource_errors

BASE = Path(__file__).parents[1] / "manifests" / "base"
NAMESPACE, TOKEN = "equilibrate", "stand-in"
LAUNCHER, RUN_ID, WORKFLOW = "launcher-pod", "run-1", "alignment-x7k2"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GIVE_UP_S = 300
"""Seconds after which a test that waits for something fails instead of hanging."""
START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
Object = dict[str, Any]


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class KubeApi:
    """The cluster's state, and what tests tell it to do."""

    on_create: Callable[["KubeApi", str], None] = lambda api, name: None
    """Played in a thread of its own for every job that is created."""
    rules: list[Object] = field(default_factory=lambda: base_role()["rules"])
    failures: list[int] = field(default_factory=list)
    """Statuses to answer the next calls with, instead of serving them."""
    lost_replies: int = 0
    """How many creations to do and then to answer with 500."""
    log_breaks: list[int] = field(default_factory=list)
    """Bytes after which the next log streams break off."""
    host: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Verb and resource of every call that was allowed."""
    created: list[Object] = field(default_factory=list)
    num_sent: Counter[str] = field(default_factory=Counter)
    """Whole lines of its log that were sent, by pod."""
    jobs: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    workflows: dict[str, Object] = field(default_factory=dict)
    logs: dict[str, list[tuple[datetime, str]]] = field(default_factory=dict)
    events: list[tuple[int, str, Object]] = field(default_factory=list)
    too_old_watches: int = 0
    """How many watches to answer with 410, as if their version were gone."""
    watch_ends: int = 0
    """How many watches to end at once, as if their time was up."""
    generation: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    numbers: Any = field(default_factory=lambda: itertools.count(100))
    actors: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "controller": True}
        metadata = {"name": WORKFLOW, "uid": "workflow-uid", "namespace": NAMESPACE}
        self.workflows[WORKFLOW] = {"metadata": metadata, "spec": {}}
        launcher = self._pod(LAUNCHER, {"pipeline/runid": RUN_ID})
        owner |= {"name": WORKFLOW, "uid": "workflow-uid"}
        launcher["metadata"]["ownerReferences"] = [owner]

    # What becomes of a job.

    def condition(self, name: str, kind: str, reason: str, message: str, on: bool = True) -> None:
        with self.changed:
            job = self.jobs[name]
            others = [c for c in job["status"]["conditions"] if c["type"] != kind]
            status = "True" if on else "False"
            new = {"type": kind, "status": status, "reason": reason, "message": message}
            job["status"]["conditions"] = [*others, new]
            self._record("MODIFIED", job)

    def start_pods(self, name: str) -> None:
        """Start the nodes, for the first time or again: older pods of the job go."""
        with self.changed:
            for old in [p for p, pod in self.pods.items() if job_of(pod) == name]:
                del self.pods[old], self.logs[old]
            job = self.jobs[name]
            job["spec"]["suspend"] = False
            for node in range(job["spec"]["trainer"]["numNodes"]):
                labels = {
                    "jobset.sigs.k8s.io/jobset-name": name,
                    "jobset.sigs.k8s.io/replicatedjob-name": "node",
                    "batch.kubernetes.io/job-completion-index": str(node),
                }
                self._pod(f"{name}-node-0-{node}-{uuid.uuid4().hex[:5]}", labels)
            job["status"]["jobsStatus"] = [{"name": "node", "active": 1, "ready": 1}]
            self._record("MODIFIED", job)
        if self.jobs[name]["status"]["conditions"]:
            self.condition(name, "Suspended", "Resumed", "TrainJob is resumed", on=False)

    def say(self, name: str, text: str, node: int = 0) -> None:
        """Let a node log a line; time stands still every third line and moves by 0.4 s else."""
        with self.changed:
            log = self.logs[self.pod_of(name, node)]
            step = timedelta(milliseconds=0 if len(log) % 3 == 2 else 400)
            log.append(((log[-1][0] if log else START) + step, text))
            self.changed.notify_all()

    def complete(self, name: str) -> None:
        self._end_pods(name, "Succeeded")
        self.condition(name, "Complete", "JobsCompleted", "jobset completed successfully")

    def fail(
        self, name: str, message: str = "jobset failed due to one or more job failures"
    ) -> None:
        self._end_pods(name, "Failed")
        self.condition(name, "Failed", "FailedJobs", message)

    def preempt(self, name: str) -> None:
        """A node is lost: the runtime's failure policy starts all nodes again."""
        self._end_pods(name, "Failed")
        self.start_pods(name)

    def delete(self, name: str) -> None:
        """Delete a job with its pods."""
        with self.changed:
            for old in [p for p, pod in self.pods.items() if job_of(pod) == name]:
                del self.pods[old], self.logs[old]
            self._record("DELETED", self.jobs.pop(name))

    # What becomes of the API.

    def drop_watches(self) -> None:
        """Break every open watch off."""
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    def wait_for(self, verb: str, resource: str, times: int = 1) -> None:
        """Wait until a call was made that often."""
        self.wait_until(lambda: self.calls.count((verb, resource)) >= times)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until something is so; a test that waits for ever fails instead."""
        with self.changed:
            assert self.changed.wait_for(happened, timeout=GIVE_UP_S), self.calls

    def pod_of(self, name: str, node: int) -> str:
        index = "batch.kubernetes.io/job-completion-index"
        (found,) = [
            pod
            for pod, content in self.pods.items()
            if job_of(content) == name and content["metadata"]["labels"][index] == str(node)
        ]
        return found

    def _end_pods(self, name: str, phase: str) -> None:
        with self.changed:
            for pod in self.pods.values():
                if job_of(pod) == name:
                    pod["status"]["phase"] = phase
            self.changed.notify_all()

    def _pod(self, name: str, labels: dict[str, str]) -> Object:
        number = next(self.numbers)
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"pod-{number}",
            "labels": labels,
            "creationTimestamp": (START + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self.logs[name] = []
        pod = {"metadata": metadata, "spec": {"containers": []}, "status": {"phase": "Running"}}
        self.pods[name] = pod
        return pod

    def _record(self, kind: str, job: Object) -> None:
        version = next(self.numbers)
        job["metadata"]["resourceVersion"] = str(version)
        self.events.append((version, kind, json.loads(json.dumps(job))))
        self.changed.notify_all()


def job_of(pod: Object) -> str | None:
    return pod["metadata"]["labels"].get("jobset.sigs.k8s.io/jobset-name")


def base_role() -> Object:
    documents = yaml.safe_load_all((BASE / "rbac.yaml").read_text())
    return next(d for d in documents if d["kind"] == "Role")


def runtime() -> Object:
    return yaml.safe_load((BASE / "trainer-runtime.yaml").read_text())


def check_job(job: Object) -> None:
    """Refuse what the Trainer's definition, its webhook or its controller would."""
    problems = list(custom_resource_errors(job))
    for key in job["metadata"].keys() - {"name", "labels", "annotations", "ownerReferences"}:
        problems.append(f"metadata: unknown field {key}")
    for value in job["metadata"].get("labels", {}).values():
        if len(value) > 63 or not LABEL.fullmatch(value):
            problems.append(f"metadata.labels: {value!r}")
    if not problems:
        spec, offered = job["spec"], runtime()
        reference = spec["runtimeRef"]
        if (reference.get("kind"), reference["name"]) != (
            offered["kind"],
            offered["metadata"]["name"],
        ):
            problems.append("spec.runtimeRef: must be created before the TrainJob is created")
        replicated = {r["name"]: r for r in offered["spec"]["template"]["spec"]["replicatedJobs"]}
        for patch in spec.get("runtimePatches", ()):
            for part in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
                if part["name"] not in replicated:
                    problems.append(f"spec.runtimePatches: no replicated job {part['name']}")
                    continue
                ours = part["template"]["spec"]["template"]["spec"]
                theirs = replicated[part["name"]]["template"]["spec"]["template"]["spec"]
                known = {volume["name"] for volume in theirs["volumes"]}
                if {volume["name"] for volume in ours.get("volumes", ())} - known:
                    problems.append("spec.runtimePatches: a volume that nothing mounts")
        for variable in spec["trainer"].get("env", ()):
            if variable["name"].startswith("PET_"):
                problems.append(f"spec.trainer.env: reserved: {variable['name']}")
    if problems:
        raise Refused(422, "Invalid", f"TrainJob is invalid: {'; '.join(problems)}")


def create_job(api: KubeApi, job: Object) -> Object:
    check_job(job)
    name = job["metadata"]["name"]
    if name in api.jobs:
        raise Refused(409, "AlreadyExists", f"trainjobs {name!r} already exists")
    api.created.append(json.loads(json.dumps(job)))
    job["metadata"] |= {
        "namespace": NAMESPACE,
        "uid": f"job-{next(api.numbers)}",
        "creationTimestamp": "2026-11-21T10:00:00Z",
    }
    job["status"] = {"conditions": []}
    if QUEUE_LABEL in job["metadata"].get("labels", {}):
        job["spec"]["suspend"] = True
        message = "Job is suspended"
        condition = {"type": "Suspended", "status": "True", "reason": "Suspended"}
        job["status"]["conditions"] = [condition | {"message": message}]
    api.jobs[name] = job
    api._record("ADDED", job)
    actor = threading.Thread(target=api.on_create, args=(api, name), daemon=True)
    api.actors.append(actor)
    actor.start()
    if api.lost_replies:
        api.lost_replies -= 1
        raise Refused(500, "InternalError", "planted: the reply was lost")
    return job


def delete_job(api: KubeApi, name: str, options: Object) -> Object:
    job = api.jobs[name]
    wanted = options.get("preconditions", {}).get("uid", job["metadata"]["uid"])
    if wanted != job["metadata"]["uid"]:
        raise Refused(409, "Conflict", "Precondition failed: UID in precondition")
    if options.get("propagationPolicy") != "Foreground":
        raise Refused(400, "BadRequest", "its pods would outlive it for a while")
    job["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"
    api._record("MODIFIED", job)

    def collect() -> None:
        time.sleep(0.05)
        api.delete(name)

    threading.Thread(target=collect, daemon=True).start()
    return job


def selected(objects: list[Object], selector: str) -> list[Object]:
    for part in filter(None, selector.split(",")):
        key, value = part.split("=")
        objects = [o for o in objects if o["metadata"].get("labels", {}).get(key) == value]
    return objects
