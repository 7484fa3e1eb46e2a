"""What every pod of ours must satisfy, beyond being well-formed."""

from collections.abc import Iterator
from typing import Any

SIDECAR_LABEL = "sidecar.istio.io/inject"
"""Namespaces of Kubeflow Profiles inject sidecars into every pod that does not refuse them."""
Template = dict[str, Any]


def pods(resource: dict[str, Any]) -> Iterator[tuple[str, Template]]:
    """(where, pod template) of everything in a resource that makes pods."""
    if resource["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield "", resource["spec"]["template"]
    if resource["kind"] == "TrainingRuntime":
        for job in resource["spec"]["template"]["spec"]["replicatedJobs"]:
            yield f"{job['name']}: ", job["template"]["spec"]["template"]


def pod_errors(template: Template) -> Iterator[str]:
    """Rules a pod template breaks, one line each."""
    spec = template["spec"]
    if template["metadata"].get("labels", {}).get(SIDECAR_LABEL) != "false":
        yield f"gets a sidecar where Istio injects them: label it {SIDECAR_LABEL}: 'false'"
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield "runs as root: set runAsNonRoot and a runAsUser"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile: set RuntimeDefault"
    if spec.get("automountServiceAccountToken") is not False:
        yield "mounts an API token: set automountServiceAccountToken: false"
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the host"
    if any("hostPath" in volume for volume in spec.get("volumes", ())):
        yield "mounts a path of the host"
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for error in container_errors(container):
            yield f"{container['name']}: {error}"


def container_errors(container: dict[str, Any]) -> Iterator[str]:
    """Rules a container breaks."""
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield "is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may escalate privileges"
    if not context.get("readOnlyRootFilesystem"):
        yield "may write to its root filesystem"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield "keeps capabilities"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield "runs as root"
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory", "ephemeral-storage"):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield f"has no {resource} in its {kind}"
    image = container["image"]
    if ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
        yield f"image {image} is not pinned"
