"""What is asked of Kubeflow Trainer: well-formed, placed as configured, named by what it makes."""

import dataclasses
from typing import Any

import pytest

from equilibrate_core.digests import code_digest
from equilibrate_core.launch_training import launch_training
from equilibrate_core.node_placement import NodePlacement
from equilibrate_core.train_job import Owner, Training, job_name, train_job
from tests.equilibrate_core.training_launcher import (
    NODES,
    SELECTOR,
    TOLERATIONS,
    Metrics,
    config,
    train_scorer,
)
from tests.kube_api import Refused, check_job

PLACEMENT = NodePlacement.model_validate(
    {**NODES, "node_selector": SELECTOR, "tolerations": TOLERATIONS}
)
TRAINING = Training(
    stage="train_scorer",
    module="components.train_scorer.stage",
    config=config("s3://bucket", num_processes=8),
    code_digest="0123456789abcdef",
    inputs={"pairs": "s3://bucket/run/pairs"},
    input_digests={"pairs": "aa"},
    output=("scorer", "s3://bucket/run/scorer"),
)
OWNER = Owner("run-1", "alignment-x7k2", "workflow-uid")


def built(**changes: Any) -> dict[str, Any]:
    return train_job(TRAINING, PLACEMENT.model_copy(update=changes), OWNER)


def node_pod(job: dict[str, Any]) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return node["template"]["spec"]["template"]["spec"]


def test_selector_tolerations_queue_and_resources_are_those_of_the_placement() -> None:
    job = built()
    check_job(job)
    assert node_pod(job)["nodeSelector"] == SELECTOR
    assert node_pod(job)["tolerations"] == TOLERATIONS
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "equilibrate"
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    limits = {"memory": "16Gi", "ephemeral-storage": "200Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": {"cpu": "4", **limits}, "limits": limits}
    assert job["spec"]["activeDeadlineSeconds"] == 3600


def test_the_job_belongs_to_the_run() -> None:
    (reference,) = built()["metadata"]["ownerReferences"]
    assert (reference["kind"], reference["uid"]) == ("Workflow", "workflow-uid")
    assert built()["metadata"]["labels"]["pipeline/runid"] == "run-1"
    assert "ownerReferences" not in train_job(TRAINING, PLACEMENT, None)["metadata"]


def test_secrets_go_by_name_and_models_by_the_shared_volume() -> None:
    job = built()
    variables = {v["name"]: v for v in job["spec"]["trainer"]["env"]}
    secret = variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "equilibrate-s3", "key": "AWS_SECRET_ACCESS_KEY"}
    assert variables["EQUILIBRATE_MODEL_CACHE"]["value"] == "/model-cache"
    (volume,) = node_pod(job)["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "equilibrate-model-cache"


def test_what_is_not_configured_is_not_there() -> None:
    nothing = {"node_selector": {}, "tolerations": (), "model_cache": None, "s3_secret": None}
    job = built(**nothing, queue=None, accelerators=0)
    check_job(job)
    assert "runtimePatches" not in job["spec"]
    assert not job["spec"]["trainer"].get("env")
    assert "nvidia.com/gpu" not in str(job)
    assert "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]


def test_the_name_changes_with_config_inputs_code_and_output_and_with_nothing_else() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"config": config("s3://bucket", num_processes=8, seed=1)},
        {"input_digests": {"pairs": "bb"}},
        {"code_digest": "f" * 16},
        {"output": ("scorer", "s3://bucket/other/scorer")},
    ]
    names = [job_name(dataclasses.replace(TRAINING, **change)) for change in changes]
    assert len(set(names)) == len(changes)
    assert job_name(TRAINING) == names[0] == built(memory="1Gi")["metadata"]["name"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtime": "absent"}, "must be created before"),
        ({"queue": "not a label!"}, "metadata.labels"),
    ],
)
def test_the_stand_in_refuses_what_a_cluster_would(change: dict[str, Any], words: str) -> None:
    with pytest.raises((Refused, ValueError), match=words):
        check_job(built(**change))


def test_nodes_are_told_which_code_they_are_to_run() -> None:
    arguments = built()["spec"]["trainer"]["args"]
    assert arguments[arguments.index("--code") + 1] == "train_scorer=0123456789abcdef"


@pytest.mark.parametrize(
    ("nodes", "uri", "words"),
    [
        ({}, "s3://b/x", "num_nodes: 2 trains in a TrainJob on a cluster"),
        (NODES, "minio://b/x", "read and write s3:// only"),
        ({**NODES, "cpus": "4"}, "s3://b/x", "cpus: unknown field"),
        ({**NODES, "tolerations": None}, "s3://b/x", "tolerations.0.keys: unknown field"),
    ],
)
def test_what_cannot_become_a_job_ends_with_one_line(
    nodes: dict[str, Any], uri: str, words: str, tmp_path: Any, capsys: Any
) -> None:
    from types import SimpleNamespace

    from components.train_scorer.config import TrainScorerConfig

    with pytest.raises(SystemExit) as ended:
        launch_training(
            train_scorer,  # type: ignore[arg-type]
            TrainScorerConfig,
            config("s3://b").model_dump_json(),
            Metrics(tmp_path / "metrics.json"),
            code_digest=code_digest("train_scorer"),
            output="scorer",
            nodes=nodes,
            node_selector={},
            tolerations=[{"keys": "nvidia.com/gpu"}] if "tolerations" in nodes else [],
            scorer=SimpleNamespace(path=str(tmp_path / "scorer"), uri=uri),
        )
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
