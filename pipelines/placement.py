"""Where tasks run: images, resources, node pools, secrets, volumes, retries and time limits.

A KubeflowConfig -> pipeline parameters with its values as defaults, and one decorator of tasks.
Locally there are no such parameters: images are constants, and kfp ignores the rest.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kfp import kubernetes
from kfp.dsl import structures
from kfp.dsl.pipeline_channel import PipelineChannel

from equilibrate_core.model_cache import CACHE_VARIABLE
from pipelines.kubeflow_config import POOLS, KubeflowConfig, Resources, StageName

CACHE_PATH = "/models"
READS_MODELS = {
    "import_model",
    "classify_prompts",
    "train_scorer",
    "build_pairs",
    "score_tokens",
    "train_policy",
    "generate_responses",
    "judge_responses",
    "score_benchmarks",
}
# The order of the stages in the documentation, so that the graph in the UI reads like it.
NUMBERS = {
    "import_data": 1,
    "import_model": 2,
    "classify_prompts": 3,
    "assemble_dataset": 4,
    "train_scorer": 5,
    "build_pairs": 6,
    "score_tokens": 7,
    "train_policy": 8,
    "generate_responses": 9,
    "gather_generations": 9,
    "judge_responses": 10,
    "score_benchmarks": 11,
    "gather_arms": 12,
    "write_report": 12,
    "publish_model": 13,
}
RUN_API_LABEL = ("access-ml-pipeline", "true")
"""Kubeflow's own label of pods that get a token for its API (manifests/multi-user)."""
LAUNCHER = Resources(cpu="1", memory="4Gi")
"""Of a task that starts a TrainJob and follows it; it needs no accelerator and no queue."""
Place = Callable[..., Any]


def placement_defaults(
    config: KubeflowConfig, stages: Iterable[StageName] = tuple(POOLS)
) -> dict[str, Any]:
    """Pipeline parameters of the placement of `stages`, and their defaults."""
    values: dict[str, Any] = {
        "cpu_image": config.cpu_image,
        "train_image": config.train_image,
        "vllm_image": config.vllm_image,
        "accelerator_type": config.accelerator_type,
        "node_selector": dict(config.node_selector),
        "tolerations": [{"key": key, "operator": "Exists"} for key in config.tolerate],
    }
    if config.s3_secret:
        values["s3_secret"] = config.s3_secret
    for variable, secret in config.env_secrets.items():
        values[_secret_parameter(variable)] = secret
    if config.model_cache:
        values["model_cache"] = config.model_cache
    for stage in stages:
        resources = config.resources(stage)
        values[f"{stage}_cpu"] = resources.cpu
        values[f"{stage}_memory"] = resources.memory
        if resources.accelerators:
            values[f"{stage}_accelerators"] = str(resources.accelerators)
    return values


def with_parameters(defaults: Mapping[str, Any]) -> Callable[[Callable[..., Any]], Any]:
    """Replace a pipeline function's `*placement` by named parameters: kfp reads the signature."""

    def rename(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
        ]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        added = [
            inspect.Parameter(name, kind, default=value, annotation=type(value))
            for name, value in defaults.items()
        ]
        function.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        return function

    return rename


def placer(config: KubeflowConfig, channels: Mapping[str, Any]) -> Place:
    """Decorator of tasks: place(task, display name, …). No channels: a local run.

    A task with `num_nodes` > 1 starts a TrainJob, whose nodes are placed by `node_inputs`.
    """
    values = placement_defaults(config) | dict(channels)

    def place(task: Any, name: str, *, cached: bool = True, num_nodes: int = 1) -> Any:
        stage = task.component_spec.name.replace("-", "_")
        number = NUMBERS.get(stage)
        task.set_display_name(f"{number} {name}" if number else name)
        task.set_caching_options(cached)
        image = values[f"{POOLS[stage]}_image"]
        if channels and num_nodes > 1:
            _as_launcher(task, config, values, image)
        elif channels:
            _on_cluster(task, stage, config, values, image)
        else:
            task.set_container_image(image)
        if config.max_retries and channels:
            task.set_retry(
                config.max_retries,
                backoff_duration=f"{config.retry_backoff_s}s",
                backoff_factor=2,
                backoff_max_duration=f"{config.retry_backoff_max_s}s",
            )
        return task

    return place


def node_inputs(
    config: KubeflowConfig, channels: Mapping[str, Any]
) -> Callable[[StageName, int], dict[str, Any]]:
    """What a training task is given to start a TrainJob on so many nodes; nothing for one node.

    Its texts may name parameters. Those that are no texts have inputs of their own: the backend
    would put them into the middle of a text, unquoted.
    """
    values = placement_defaults(config) | dict(channels)

    def inputs(stage: StageName, num_nodes: int) -> dict[str, Any]:
        if not channels or num_nodes == 1:
            return {}
        nodes: dict[str, Any] = {
            "image": str(values[f"{POOLS[stage]}_image"]),
            "cpu": str(values[f"{stage}_cpu"]),
            "memory": str(values[f"{stage}_memory"]),
            "scratch": config.node_scratch,
            "accelerators": str(values.get(f"{stage}_accelerators", "0")),
            "accelerator_type": str(values["accelerator_type"]),
            "timeout_s": config.resources(stage).timeout_s,
            "runtime": config.trainer_runtime,
        }
        if config.queue:
            nodes["queue"] = config.queue
        if config.s3_secret:
            nodes["s3_secret"] = str(values["s3_secret"])
            nodes["secret_variables"] = list(config.secret_variables)
        if config.model_cache:
            nodes["model_cache"] = str(values["model_cache"])
        selected = {name: values[name] for name in ("node_selector", "tolerations")}
        return {"nodes": nodes, **selected}

    return inputs


def _as_launcher(task: Any, config: KubeflowConfig, values: Mapping[str, Any], image: Any) -> None:
    """A small pod without a time limit: the job has one, which leaves out what it waits."""
    _use_secret(task, config, values)
    _set_resources(task, image, {"cpu": LAUNCHER.cpu, "memory": LAUNCHER.memory})


def _on_cluster(
    task: Any, stage: Any, config: KubeflowConfig, values: Mapping[str, Any], image: Any
) -> None:
    resources = config.resources(stage)
    used = {name: values[f"{stage}_{name}"] for name in ("cpu", "memory")}
    kubernetes.set_timeout(task, resources.timeout_s)
    _use_secret(task, config, values)
    for variable in config.env_secrets if stage != "record_run" else ():
        secret = values[_secret_parameter(variable)]
        kubernetes.use_secret_as_env(task, secret, {variable: variable})
    if config.model_cache and stage in READS_MODELS:
        kubernetes.mount_pvc(task, values["model_cache"], CACHE_PATH)
        task.container_spec.env = {**(task.container_spec.env or {}), CACHE_VARIABLE: CACHE_PATH}
    if stage == "record_run" and config.api_url:
        kubernetes.add_pod_label(task, *RUN_API_LABEL)
    if resources.accelerators:
        used["type"] = values["accelerator_type"]
        used["count"] = values[f"{stage}_accelerators"]
        kubernetes.add_node_selector_json(task, values["node_selector"])
        kubernetes.add_toleration_json(task, values["tolerations"])
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", config.shared_memory)
        if config.queue:
            kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", config.queue)
    _set_resources(task, image, used)


def _secret_parameter(variable: str) -> str:
    """The pipeline parameter that names the secret of a variable."""
    return f"secret_{variable.lower()}"


def _use_secret(task: Any, config: KubeflowConfig, values: Mapping[str, Any]) -> None:
    if config.s3_secret:
        keys = {key: key for key in config.secret_variables}
        kubernetes.use_secret_as_env(task, values["s3_secret"], keys)


def _set_resources(task: Any, image: Any, used: Mapping[str, Any]) -> None:
    # Not by the task's setters: each inspects the whole stack, which doubles the time of a compile,
    # and they forget to declare the parameter, so that a group of tasks does not hand it on.
    task.container_spec.image = str(image)
    task.container_spec.resources = structures.ResourceSpec(
        cpu_request=str(used["cpu"]),
        memory_request=str(used["memory"]),
        memory_limit=str(used["memory"]),
        accelerator_type=str(used["type"]) if "type" in used else None,
        accelerator_count=str(used["count"]) if "count" in used else None,
    )
    parameters = [x for x in (image, *used.values()) if isinstance(x, PipelineChannel)]
    task.register_pipeline_channels(parameters)
