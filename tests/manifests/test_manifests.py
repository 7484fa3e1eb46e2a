"""The manifests satisfy the schemas and our rules; planted mistakes are caught."""

import copy
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.equilibrate_core.test_train_job import built
from tests.manifests.crd_schemas import custom_resource_errors
from tests.manifests.rendering import MANIFESTS, OVERLAYS, Resource, errors, render

CONTRACT = {
    ("Namespace", "equilibrate"),
    ("ServiceAccount", "equilibrate-pipeline"),
    ("Role", "equilibrate-pipeline"),
    ("ConfigMap", "kfp-launcher"),
    ("PersistentVolumeClaim", "equilibrate-model-cache"),
    ("TrainingRuntime", "equilibrate-deepspeed"),
    ("Deployment", "equilibrate-judge"),
    ("Service", "equilibrate-judge"),
    ("PodDisruptionBudget", "equilibrate-judge"),
}


@cache
def _rendered(overlay: str) -> list[Resource]:
    return render(MANIFESTS / overlay)


def rendered(overlay: str) -> list[Resource]:
    return copy.deepcopy(_rendered(overlay))


def find(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = [r for r in resources if (r["kind"], r["metadata"]["name"]) == (kind, name)]
    return found


def judge_pod(resources: list[Resource]) -> Any:
    return find(resources, "Deployment", "equilibrate-judge")["spec"]["template"]["spec"]


def trainer_pod(resources: list[Resource]) -> Any:
    runtime = find(resources, "TrainingRuntime", "equilibrate-deepspeed")
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_satisfy_schemas_and_rules(overlay: str) -> None:
    assert errors(rendered(overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_that_runs_rely_on_are_there(overlay: str) -> None:
    resources = rendered(overlay)
    assert {(r["kind"], r["metadata"]["name"]) for r in resources} >= CONTRACT
    cluster_wide = {"Namespace", "ResourceFlavor", "ClusterQueue"}
    inside = [r for r in resources if r["kind"] not in cluster_wide]
    assert {r["metadata"].get("namespace") for r in inside} == {"equilibrate"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_training_nodes_have_the_time_to_save_that_the_docs_tell(overlay: str) -> None:
    seconds = trainer_pod(rendered(overlay))["terminationGracePeriodSeconds"]
    told = (MANIFESTS.parent / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"`terminationGracePeriodSeconds: {seconds}`" in told


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_manifest_carries_a_secret_value(overlay: str) -> None:
    assert [r for r in rendered(overlay) if r["kind"] == "Secret"] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_roles_grant_no_wildcard_no_pod_creation_and_named_secrets_only(overlay: str) -> None:
    resources = rendered(overlay)
    assert not [r for r in resources if r["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    rules = find(resources, "Role", "equilibrate-pipeline")["rules"]
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if "pods" in rule["resources"] or "pods/log" in rule["resources"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}
        if "secrets" in rule["resources"]:
            assert (rule["verbs"], rule["resourceNames"]) == (["get"], ["equilibrate-s3"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_denied_first_and_the_node_credentials_stay_out_of_reach(
    overlay: str,
) -> None:
    resources = rendered(overlay)
    deny = find(resources, "NetworkPolicy", "deny-all")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in (r for r in resources if r["kind"] == "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            for peer in rule.get("to", ()):
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert "169.254.0.0/16" in peer["ipBlock"]["except"]


def test_kind_asks_for_no_gpu_and_brings_its_own_s3() -> None:
    resources = rendered("overlays/kind")
    assert "nvidia.com/gpu" not in str(resources)
    assert find(resources, "StatefulSet", "seaweedfs")
    launcher = find(resources, "ConfigMap", "kfp-launcher")["data"]["providers"]
    assert "seaweedfs.equilibrate.svc" in launcher


def test_prod_pods_with_gpus_go_to_the_gpu_pool_through_the_queue() -> None:
    resources = rendered("overlays/prod")
    for pod in (judge_pod(resources), trainer_pod(resources)):
        assert pod["nodeSelector"] == {"equilibrate/pool": "gpu"}
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
    flavour = find(resources, "ResourceFlavor", "equilibrate-gpu")["spec"]
    assert flavour["nodeLabels"] == judge_pod(resources)["nodeSelector"]
    assert find(resources, "LocalQueue", "equilibrate")


def set_path(value: Any, path: str, new: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        value = value[int(key)] if key.isdigit() else value[key]
    value[int(last) if last.isdigit() else last] = new


MISTAKES: dict[str, tuple[Callable[[list[Resource]], Any], str, Any, str]] = {
    "unknown field": (judge_pod, "containers.0.imagePullPolcy", "Always", "imagePullPolcy"),
    "wrong type": (judge_pod, "containers.0.ports.0.containerPort", "x", "not of type"),
    "unknown field of the Trainer": (trainer_pod, "containers.0.gpus", 8, "gpus"),
    "privileged": (judge_pod, "containers.0.securityContext.privileged", True, "is privileged"),
    "privileged trainer": (
        trainer_pod,
        "containers.0.securityContext.privileged",
        True,
        "is privileged",
    ),
    "root": (judge_pod, "securityContext.runAsUser", 0, "runs as root"),
    "escalation": (
        judge_pod,
        "containers.0.securityContext.allowPrivilegeEscalation",
        True,
        "may escalate",
    ),
    "writable root": (
        trainer_pod,
        "containers.0.securityContext.readOnlyRootFilesystem",
        False,
        "may write",
    ),
    "added capability": (
        judge_pod,
        "containers.0.securityContext.capabilities.add",
        ["SYS_ADMIN"],
        "keeps capabilities",
    ),
    "no seccomp": (
        trainer_pod,
        "securityContext.seccompProfile",
        {"type": "Unconfined"},
        "seccomp",
    ),
    "no limits": (judge_pod, "containers.0.resources.limits", {}, "no memory in its limits"),
    "no requests": (trainer_pod, "containers.0.resources.requests", {}, "no cpu in its requests"),
    "API token": (trainer_pod, "automountServiceAccountToken", True, "mounts an API token"),
    "host network": (judge_pod, "hostNetwork", True, "namespace of the host"),
    "host path": (
        judge_pod,
        "volumes.0",
        {"name": "scratch", "hostPath": {"path": "/"}},
        "path of the host",
    ),
    "floating image": (judge_pod, "containers.0.image", "equilibrate/vllm:latest", "not pinned"),
    "absent volume": (
        judge_pod,
        "volumes.2.persistentVolumeClaim.claimName",
        "models",
        "PersistentVolumeClaim 'models'",
    ),
    "absent secret": (trainer_pod, "containers.0.envFrom.0.secretRef.name", "s3", "Secret 's3'"),
    "absent account": (trainer_pod, "serviceAccountName", "admin", "ServiceAccount 'admin'"),
    "wrong queue": (
        lambda r: find(r, "Deployment", "equilibrate-judge")["metadata"],
        "labels",
        {"kueue.x-k8s.io/queue-name": "team-a"},
        "LocalQueue 'team-a'",
    ),
    "wrong cluster queue": (
        lambda r: find(r, "LocalQueue", "equilibrate"),
        "spec.clusterQueue",
        "other",
        "ClusterQueue 'other'",
    ),
    "misspelt queue field": (
        lambda r: find(r, "LocalQueue", "equilibrate"),
        "spec.clusterqueue",
        "equilibrate",
        "clusterqueue",
    ),
    "flavour without a quota": (
        lambda r: find(r, "ClusterQueue", "equilibrate")["spec"]["resourceGroups"][0],
        "coveredResources",
        ["cpu"],
        "same number of resources",
    ),
    "resource without a quota": (
        judge_pod,
        "containers.0.resources.requests.hugepages-2Mi",
        "1Gi",
        "requests hugepages-2Mi, of which its queue has no quota",
    ),
    "sidecar": (
        lambda r: find(r, "Deployment", "equilibrate-judge")["spec"]["template"]["metadata"],
        "labels",
        {"app.kubernetes.io/name": "equilibrate-judge"},
        "gets a sidecar",
    ),
    "service without pods": (
        lambda r: find(r, "Service", "equilibrate-judge"),
        "spec.selector",
        {"app": "judge"},
        "selects no pod",
    ),
    "two policies of the Trainer": (
        lambda r: find(r, "TrainingRuntime", "equilibrate-deepspeed"),
        "spec.mlPolicy.mpi",
        {"numProcPerNode": 1},
        "mlPolicy",
    ),
    "wrong launcher secret": (
        lambda r: find(r, "ConfigMap", "kfp-launcher"),
        "data.providers",
        "s3: {default: {endpoint: x, credentials: {secretRef: {secretName: equilibrate-s3, "
        "accessKeyKey: accesskey, secretKeyKey: secretkey}}}}",
        "kfp-launcher",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistake_is_caught(mistake: str) -> None:
    pick, path, value, words = MISTAKES[mistake]
    resources = rendered("overlays/prod")
    set_path(pick(resources), path, value)
    found = errors(resources)
    assert found and any(words in line for line in found), found


def train_job(**changes: Any) -> Resource:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "train", "namespace": "equilibrate"},
        "spec": {
            "runtimeRef": {"kind": "TrainingRuntime", "name": "equilibrate-deepspeed"},
            "trainer": {"numNodes": 2, "command": ["torchrun"]},
        }
        | changes,
    }


def test_a_train_job_for_the_runtime_is_well_formed_and_a_wrong_one_is_not() -> None:
    assert list(custom_resource_errors(train_job())) == []
    assert any("nodes" in e for e in custom_resource_errors(train_job(trainer={"nodes": 2})))


def test_what_a_train_job_requests_has_a_quota() -> None:
    """Its resources replace those of the runtime, so that the rules above do not see them."""
    requests = built()["spec"]["trainer"]["resourcesPerNode"]["requests"]
    queue = find(rendered("overlays/prod"), "ClusterQueue", "equilibrate")["spec"]
    assert requests.keys() <= set(queue["resourceGroups"][0]["coveredResources"])


def test_the_overlay_for_single_user_installations_in_the_docs_leaves_no_trace_of_our_namespace(
    tmp_path: Path,
) -> None:
    page = (MANIFESTS.parent / "docs" / "kubeflow.md").read_text()
    text = page.partition("# manifests/overlays/single-user/kustomization.yaml\n")[2]
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    folder = tmp_path / "manifests" / "overlays" / "single-user"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text.partition("```")[0])
    resources = render(folder)
    assert {r["kind"] for r in resources}.isdisjoint({"Namespace", "NetworkPolicy"})
    assert {r["metadata"]["namespace"] for r in resources} == {"kubeflow"}
    (subject,) = find(resources, "RoleBinding", "equilibrate-pipeline")["subjects"]
    assert subject["namespace"] == "kubeflow"
    queue = find(resources, "ClusterQueue", "equilibrate")["spec"]
    assert list(queue["namespaceSelector"]["matchLabels"].values()) == ["kubeflow"]
