"""Whether what the resources name is there: accounts, volumes, secrets, queues, flavours, pods."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import yaml

from tests.manifests.pod_rules import pods

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SECRETS = {
    "equilibrate-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "equilibrate-judge": {"JUDGE_API_KEY"},
}
"""Secrets that docs/kubeflow.md tells to create, with their keys."""
Resource = dict[str, Any]


def reference_errors(resources: list[Resource]) -> Iterator[str]:
    """Names that lead nowhere, one line each."""
    there = {(r["kind"], r["metadata"]["name"]) for r in resources}
    for resource in resources:
        called = f"{resource['kind']}/{resource['metadata']['name']}"
        for kind, wanted in chain(_named(resource), _queues(resource), _roles(resource)):
            if (kind, wanted) not in there and not (kind == "Secret" and wanted in SECRETS):
                yield f"{called}: names {kind} {wanted!r}, which is not there"
        if resource["kind"] in ("Service", "PodDisruptionBudget"):
            selector = resource["spec"]["selector"]
            labels = selector.get("matchLabels", selector)
            if not any(labels.items() <= of.items() for of in _pod_labels(resources)):
                yield f"{called}: selects no pod ({labels})"
    yield from _launcher_errors(resources)
    yield from _quota_errors(resources)


def _named(resource: Resource) -> Iterator[tuple[str, str]]:
    for _, template in pods(resource):
        spec = template["spec"]
        yield "ServiceAccount", spec.get("serviceAccountName", "default")
        for volume in spec.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        for container in spec["containers"]:
            for source in container.get("envFrom", ()):
                yield "Secret", source["secretRef"]["name"]
            for variable in container.get("env", ()):
                if "valueFrom" in variable:
                    yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]


def _queues(resource: Resource) -> Iterator[tuple[str, str]]:
    queue = resource["metadata"].get("labels", {}).get(QUEUE_LABEL)
    if queue is not None:
        yield "LocalQueue", queue
    if resource["kind"] == "LocalQueue":
        yield "ClusterQueue", resource["spec"]["clusterQueue"]
    if resource["kind"] == "ClusterQueue":
        for group in resource["spec"]["resourceGroups"]:
            for flavour in group["flavors"]:
                yield "ResourceFlavor", flavour["name"]


def _roles(resource: Resource) -> Iterator[tuple[str, str]]:
    if resource["kind"] == "RoleBinding":
        yield resource["roleRef"]["kind"], resource["roleRef"]["name"]
        for subject in resource["subjects"]:
            yield subject["kind"], subject["name"]


def _pod_labels(resources: list[Resource]) -> list[dict[str, str]]:
    return [t["metadata"]["labels"] for r in resources for _, t in pods(r)]


def _launcher_errors(resources: list[Resource]) -> Iterator[str]:
    """The launcher's config is YAML inside YAML, which no schema looks into."""
    for resource in resources:
        if (resource["kind"], resource["metadata"]["name"]) != ("ConfigMap", "kfp-launcher"):
            continue
        default = yaml.safe_load(resource["data"]["providers"])["s3"]["default"]
        known = {"endpoint", "region", "disableSSL", "forcePathStyle", "maxRetries", "credentials"}
        for field in default.keys() - known:
            yield f"ConfigMap/kfp-launcher: providers: no such field: {field}"
        reference = default["credentials"]["secretRef"]
        keys = {reference["accessKeyKey"], reference["secretKeyKey"]}
        if not keys <= SECRETS.get(reference["secretName"], set()):
            yield f"ConfigMap/kfp-launcher: names Secret {reference}, which is not there"
        if not resource["data"]["defaultPipelineRoot"].startswith("s3://"):
            yield "ConfigMap/kfp-launcher: defaultPipelineRoot is not an s3:// URI"


def _quota_errors(resources: list[Resource]) -> Iterator[str]:
    """Kueue admits no workload that requests a resource which its queue does not cover."""
    queues = [r for r in resources if r["kind"] == "ClusterQueue"]
    groups = [group for queue in queues for group in queue["spec"]["resourceGroups"]]
    covered = {name for group in groups for name in group["coveredResources"]}
    for resource in resources if queues else ():
        labels = resource["metadata"].get("labels", {})
        if QUEUE_LABEL not in labels and resource["kind"] != "TrainingRuntime":
            continue  # TrainJobs wait in the queue, and run on the runtime's pods
        for _, template in pods(resource):
            for container in template["spec"]["containers"]:
                for name in container["resources"]["requests"].keys() - covered:
                    called = f"{resource['kind']}/{resource['metadata']['name']}"
                    yield f"{called}: requests {name}, of which its queue has no quota"
