"""The TrainJob of a training over several nodes: what is asked of Kubeflow Trainer, nothing else.

A stage, its inputs and a placement -> one TrainJob object, built with the Kubeflow SDK's models.
Its name is a digest of what it is to make and where to, so that a restarted launcher asks for the
very same job and two runs never share one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equilibrate_core import train_node
from equilibrate_core.model_cache import CACHE_VARIABLE
from equilibrate_core.node_placement import NodePlacement
from equilibrate_core.records import digest
from equilibrate_core.training_config import TrainingStageConfig

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NODE = "node"
"""Name of the runtime's replicated job and of its container; the Trainer demands it."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
RUN_LABEL = "pipeline/runid"
"""Kubeflow Pipelines' own label of a run's pods."""
MANAGER = "equilibrate/launcher"
CACHE_VOLUME, CACHE_PATH = "model-cache", "/model-cache"
"""The runtime's volume of imported models, and where its pods see it."""


@dataclass(frozen=True)
class Training:
    """What a TrainJob is to do: a stage's module on inputs, each by its digest and s3:// URI."""

    stage: str
    module: str
    config: TrainingStageConfig
    code_digest: str
    inputs: Mapping[str, str]
    """URI by argument name."""
    input_digests: Mapping[str, str]
    output: tuple[str, str]
    """Argument name and URI."""

    @property
    def result_uri(self) -> str:
        """Where scalars and errors go: beside the output, which holds what its manifest says."""
        return f"{self.output[1].rstrip('/')}.job"


@dataclass(frozen=True)
class Owner:
    """The run that a job belongs to: with its workflow Kubernetes removes the job."""

    run_id: str
    workflow: str
    workflow_uid: str


def job_name(training: Training) -> str:
    """Name of the job: the same for the same config, inputs, code and output, and for no other."""
    identity = {
        "stage": training.stage,
        "config": training.config.model_dump(mode="json"),
        "code": training.code_digest,
        "inputs": dict(training.input_digests),
        "output": training.output[1],
    }
    return f"{training.stage.replace('_', '-')}-{digest(identity)[:16]}"


def train_job(training: Training, placement: NodePlacement, owner: Owner | None) -> dict[str, Any]:
    """The object to create; `owner` None leaves it without a run (outside Kubeflow Pipelines)."""
    from kubeflow_trainer_api import models  # a second of imports

    name = job_name(training)
    labels = {
        "app.kubernetes.io/part-of": "equilibrate",
        "equilibrate/stage": training.stage,
        **({RUN_LABEL: owner.run_id} if owner and owner.run_id else {}),
        **({QUEUE_LABEL: placement.queue} if placement.queue else {}),
    }
    metadata = models.IoK8sApimachineryPkgApisMetaV1ObjectMeta(
        name=name,
        labels=labels,
        annotations={"equilibrate/output": training.output[1]},
        ownerReferences=[_owner_reference(owner)] if owner else None,
    )
    trainer = models.TrainerV1alpha1Trainer(
        image=placement.image,
        numNodes=training.config.num_nodes,
        # Left to itself the Trainer starts a process per CPU core where it sees no GPU.
        numProcPerNode=training.config.num_processes,
        command=["python3", "-m", train_node.__name__],
        args=_arguments(training),
        env=[models.IoK8sApiCoreV1EnvVar.model_validate(v) for v in _variables(placement)],
        resourcesPerNode=models.IoK8sApiCoreV1ResourceRequirements.from_dict(_resources(placement)),
    )
    job = models.TrainerV1alpha1TrainJob(
        apiVersion=f"{GROUP}/{VERSION}",
        kind="TrainJob",
        metadata=metadata,
        spec=models.TrainerV1alpha1TrainJobSpec(
            runtimeRef=models.TrainerV1alpha1RuntimeRef(
                apiGroup=GROUP, kind="TrainingRuntime", name=placement.runtime
            ),
            activeDeadlineSeconds=placement.timeout_s,
            trainer=trainer,
            runtimePatches=[
                models.TrainerV1alpha1RuntimePatch.model_validate(p) for p in _patches(placement)
            ]
            or None,
        ),
    )
    return job.to_dict()


def _owner_reference(owner: Owner) -> Any:
    from kubeflow_trainer_api import models

    return models.IoK8sApimachineryPkgApisMetaV1OwnerReference(
        apiVersion="argoproj.io/v1alpha1",
        kind="Workflow",
        name=owner.workflow,
        uid=owner.workflow_uid,
        controller=False,
        blockOwnerDeletion=False,
    )


def _arguments(training: Training) -> list[str]:
    arguments = ["--stage", training.module, "--config", training.config.model_dump_json()]
    arguments += ["--code", f"{training.stage}={training.code_digest}"]
    for name, uri in training.inputs.items():
        arguments += ["--input", f"{name}={uri}"]
    return [*arguments, "--output", "=".join(training.output), "--result", training.result_uri]


def _variables(placement: NodePlacement) -> list[dict[str, Any]]:
    secret = placement.s3_secret
    keys = placement.secret_variables if secret else ()
    variables: list[dict[str, Any]] = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in keys
    ]
    if placement.model_cache:
        variables.append({"name": CACHE_VARIABLE, "value": CACHE_PATH})
    return variables


def _resources(placement: NodePlacement) -> dict[str, Any]:
    """Of one node; they replace the runtime's as a whole."""
    limits = {"memory": placement.memory, "ephemeral-storage": placement.scratch}
    if placement.accelerators:
        limits[placement.accelerator_type] = str(placement.accelerators)
    return {"requests": {"cpu": placement.cpu, **limits}, "limits": limits}


def _patches(placement: NodePlacement) -> list[dict[str, Any]]:
    """Where the runtime's pods are put; lists in it replace the runtime's."""
    pod: dict[str, Any] = {}
    if placement.node_selector:
        pod["nodeSelector"] = placement.node_selector
    if placement.tolerations:
        pod["tolerations"] = [t.model_dump(exclude_none=True) for t in placement.tolerations]
    if placement.model_cache:
        claim = {"claimName": placement.model_cache, "readOnly": True}
        pod["volumes"] = [{"name": CACHE_VOLUME, "persistentVolumeClaim": claim}]
    if not pod:
        return []
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    spec = {"template": {"spec": {"replicatedJobs": [job]}}}
    return [{"manager": MANAGER, "trainingRuntimeSpec": spec}]
