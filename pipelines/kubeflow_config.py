"""How tasks run on a cluster: the section `kubeflow` of a run file."""

from typing import Annotated, Any, Literal

from pydantic import Field

from equilibrate_core.config import Config

VariableName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
PoolName = Literal["cpu", "train", "vllm"]
StageName = Literal[
    "resolve_inputs",
    "import_data",
    "import_model",
    "classify_prompts",
    "assemble_dataset",
    "train_scorer",
    "build_pairs",
    "score_tokens",
    "train_policy",
    "generate_responses",
    "gather_generations",
    "judge_responses",
    "score_benchmarks",
    "gather_arms",
    "write_report",
    "publish_model",
    "record_run",
]


class Resources(Config):
    """What one task asks of the cluster."""

    cpu: str = "2"
    """CPU cores."""
    memory: str = "8Gi"
    """Main memory, /dev/shm included."""
    accelerators: int = Field(default=0, ge=0)
    """Accelerators of `kubeflow.accelerator_type`."""
    timeout_s: int = Field(default=6 * 3600, ge=60)
    """Seconds after which one attempt is stopped; a retry starts afresh."""


class ResourceChanges(Config):
    """What a pool or a stage asks for by itself; what is left out is decided one step below."""

    cpu: str | None = None
    """CPU cores."""
    memory: str | None = None
    """Main memory, /dev/shm included."""
    accelerators: int | None = Field(default=None, ge=0)
    """Accelerators of `kubeflow.accelerator_type`."""
    timeout_s: int | None = Field(default=None, ge=60)
    """Seconds after which one attempt is stopped."""


POOL_DEFAULTS: dict[PoolName, Resources] = {
    "cpu": Resources(),
    "train": Resources(cpu="8", memory="64Gi", accelerators=1, timeout_s=72 * 3600),
    "vllm": Resources(cpu="8", memory="64Gi", accelerators=1, timeout_s=24 * 3600),
}
SMALL = ResourceChanges(cpu="500m", memory="1Gi", timeout_s=1800)
CUSTOMARY: dict[StageName, ResourceChanges] = {
    "resolve_inputs": SMALL,
    "record_run": SMALL,
    "import_model": ResourceChanges(memory="32Gi"),
    "train_policy": ResourceChanges(cpu="16", memory="128Gi"),
}


class KubeflowConfig(Config):
    """How tasks run on a cluster; the local subprocess runner ignores it.

    Images, resources, accelerator type, node selector, tolerations, secret and model cache are the
    defaults of pipeline parameters: a run can change them without a new pipeline version.
    """

    cpu_image: str = "equilibrate/cpu:0.1.0"
    """Image of the stages without a model; pin it by digest."""
    train_image: str = "equilibrate/train:0.1.0"
    """Image of the training and scoring stages; pin it by digest."""
    vllm_image: str = "equilibrate/vllm:0.1.0"
    """Image of the generating and judging stages; pin it by digest."""
    accelerator_type: str = "nvidia.com/gpu"
    """Kubernetes resource name of the accelerator."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the node pool for tasks with accelerators."""
    tolerate: tuple[str, ...] = ("nvidia.com/gpu",)
    """Taint keys tolerated by tasks with accelerators."""
    s3_secret: str | None = "equilibrate-s3"
    """Name of the Kubernetes secret whose keys become the AWS_* variables of every task; null where
    pods have a role."""
    secret_variables: tuple[str, ...] = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    """Keys of that secret, equal to the variables' names."""
    env_secrets: dict[VariableName, str] = Field(default={})
    """Other secret variables of the tasks: the variable, and the Kubernetes secret that holds it
    under a key of that name; e.g. {JUDGE_API_KEY: equilibrate-judge, HF_TOKEN: equilibrate-hub}."""
    model_cache: str | None = "equilibrate-model-cache"
    """Name of a shared volume claim (ReadWriteMany) on which imported models lie once for all;
    null passes the weights through S3 to every task."""
    queue: str | None = None
    """Kueue LocalQueue that tasks with accelerators wait in; null starts them without a queue."""
    trainer_runtime: str = "equilibrate-deepspeed"
    """TrainingRuntime of trainings with `num_nodes` > 1; the stage's resources, image, selector,
    tolerations, queue and time limit are those of each of its nodes."""
    node_scratch: str = "200Gi"
    """Disk of each of these nodes: inputs, output and a checkpoint that is being written."""
    shared_memory: str = "8Gi"
    """Size limit of /dev/shm in tasks with accelerators (NCCL, loaders, tensor parallelism)."""
    max_retries: int = Field(default=2, ge=0)
    """Retries of a failed task, with doubling back-off."""
    retry_backoff_s: int = Field(default=30, ge=1)
    """Seconds before the first retry."""
    retry_backoff_max_s: int = Field(default=600, ge=1)
    """Longest pause before a retry, in seconds."""
    ttl_s: int = Field(default=7 * 24 * 3600, ge=60)
    """Seconds that a finished run's pods and workflow are kept; its artifacts and record stay."""
    cache_epoch: int = Field(default=0, ge=0)
    """Raise it when artifacts of earlier runs were deleted or altered: Kubeflow's cache would go on
    leading to them, and after that no task comes from a run before."""
    api_url: str = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    """Run API as seen from a task: the exit handler asks it which task failed. Empty: not asked."""
    cpu: ResourceChanges = ResourceChanges()
    """Of stages without a model, in place of 2 cores, 8Gi and six hours."""
    train: ResourceChanges = ResourceChanges()
    """Of training and token scoring, in place of 8 cores, 64Gi, one accelerator and three days."""
    vllm: ResourceChanges = ResourceChanges()
    """Of classification, generation, judging and benchmarks, in place of 8 cores, 64Gi, one
    accelerator and a day."""
    stages: dict[StageName, ResourceChanges] = Field(default={})
    """Stages that differ from their pool. resolve_inputs, record_run, import_model and train_policy
    do by default (CUSTOMARY), in what the run file leaves open for their pool."""

    def resources(self, stage: StageName) -> Resources:
        """Resources of a stage, field by field: its own, its pool's, customary, the default."""
        pool = POOLS[stage]
        own = self.stages.get(stage, ResourceChanges())
        chosen: dict[str, Any] = {}
        for changes in (CUSTOMARY.get(stage, ResourceChanges()), getattr(self, pool), own):
            chosen |= changes.model_dump(exclude_none=True)
        return POOL_DEFAULTS[pool].model_copy(update=chosen)


POOLS: dict[StageName, PoolName] = {
    "resolve_inputs": "cpu",
    "import_data": "cpu",
    "import_model": "cpu",
    "classify_prompts": "vllm",
    "assemble_dataset": "cpu",
    "train_scorer": "train",
    "build_pairs": "vllm",
    "score_tokens": "train",
    "train_policy": "train",
    "generate_responses": "vllm",
    "gather_generations": "cpu",
    "judge_responses": "vllm",
    "score_benchmarks": "vllm",
    "gather_arms": "cpu",
    "write_report": "cpu",
    "publish_model": "cpu",
    "record_run": "cpu",
}
