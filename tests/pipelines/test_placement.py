"""What a task gets on a cluster, and that a run can change it without a new version."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.record_run.run_api import TOKEN_PATH
from equilibrate_core.errors import ConfigError
from equilibrate_core.node_placement import NodePlacement
from pipelines.alignment import alignment_pipeline
from pipelines.kubeflow_config import KubeflowConfig, StageName
from pipelines.local import run_locally
from pipelines.run_config import RunConfig, load_run
from pipelines.submit import compile_run
from tests.pipelines.golden_pipeline import FOLDER, GOLDEN, compiled_now

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
RUN = load_run(FOLDER / "run.yaml")
MANIFESTS = Path(__file__).parents[2] / "manifests"
LAPTOP = Path(__file__).parents[2] / "pipelines" / "configs" / "laptop.yaml"
STUDY = load_run(LAPTOP.with_name("ablation.yaml"))


def documents(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(compile_run(config).text)
    return spec, platform["platforms"]["kubernetes"]


@pytest.fixture(scope="module")
def compiled() -> tuple[dict[str, Any], dict[str, Any]]:
    return documents(RUN)


def group(spec: dict[str, Any], prefix: str) -> dict[str, Any]:
    (found,) = [c for name, c in spec["components"].items() if name.startswith(prefix)]
    return found


def test_the_compiled_pipeline_is_the_one_under_review() -> None:
    message = "the compiled pipeline changed: run `make golden`, then look at the diff"
    assert compiled_now() == GOLDEN.read_text(encoding="utf-8"), message


def test_compiling_twice_gives_the_same_text() -> None:
    assert compile_run(RUN).version == compile_run(RUN).version
    # kfp's opening comments hold maps in an order of the process's own
    assert not any(line.startswith("#") for line in compile_run(RUN).text.splitlines()[:200])


def test_placement_values_are_parameters_with_the_configs_defaults(compiled: Any) -> None:
    declared = compiled[0]["root"]["inputDefinitions"]["parameters"]
    defaults = {name: value["defaultValue"] for name, value in declared.items()}
    assert defaults["train_image"] == "equilibrate/train:0.1.0"
    assert defaults["train_policy_accelerators"] == "8"
    assert defaults["train_policy_memory"] == "512Gi"
    assert defaults["train_scorer_accelerators"] == "1"
    assert defaults["resolve_inputs_cpu"] == "500m"
    assert defaults["node_selector"] == {"equilibrate.io/pool": "gpu"}
    assert defaults["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert defaults["s3_secret"] == "equilibrate-s3"
    assert defaults["model_cache"] == "equilibrate-model-cache"
    assert "import_data_accelerators" not in defaults


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_every_parameter_a_task_uses_reaches_its_group(compiled: Any, num_nodes: int) -> None:
    """The resource setters of kfp 2.17 leave parameters out of a group's inputs."""
    spec, platform = compiled if num_nodes == 1 else on_two_nodes()
    executors = platform["deploymentSpec"]["executors"]
    checked = 0
    for component in spec["components"].values():
        declared = component.get("inputDefinitions", {}).get("parameters", {})
        for task in component.get("dag", {}).get("tasks", {}).values():
            used = task.get("inputs", {}).get("parameters", {}).values()
            executor = executors.get(task["componentRef"]["name"].replace("comp-", "exec-"), {})
            names = {p["componentInputParameter"] for p in used if "componentInputParameter" in p}
            names |= set(
                re.findall(r"(?m)componentInputParameter: (\S+)$", yaml.safe_dump(executor))
            )
            assert names <= set(declared)
            checked += len(names)
    assert checked > 200


def test_only_tasks_with_accelerators_go_to_the_gpu_pool(compiled: Any) -> None:
    spec, platform = compiled
    executors = platform["deploymentSpec"]["executors"]
    containers = {n: e["container"] for n, e in spec["deploymentSpec"]["executors"].items()}
    on_gpus = {n for n, c in containers.items() if "accelerator" in c["resources"]}
    assert "exec-train-policy" in on_gpus and "exec-import-data" not in on_gpus
    assert len(on_gpus) == 12
    for name, executor in executors.items():
        assert ("nodeSelector" in executor) == (name in on_gpus), name
        assert ("tolerations" in executor) == (name in on_gpus), name
        shared = executor.get("emptyDirMounts", [])
        assert [m["mountPath"] for m in shared] == (["/dev/shm"] if name in on_gpus else []), name


def test_every_task_has_its_secret_a_time_limit_and_retries(compiled: Any) -> None:
    spec, platform = compiled
    executors = platform["deploymentSpec"]["executors"]
    assert set(executors) == set(spec["deploymentSpec"]["executors"])
    for executor in executors.values():
        assert int(executor["activeDeadlineSeconds"]) > 0
        (secret,) = executor["secretAsEnv"]
        names = [entry["envVar"] for entry in secret["keyToEnv"]]
        assert names == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    tasks = group(spec, "comp-condition")["dag"]["tasks"]
    for task in tasks.values():
        assert task["retryPolicy"] == {
            "backoffDuration": "30s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "600s",
            "maxRetryCount": 2,
        }


def test_keys_of_judges_and_hubs_reach_the_tasks_from_secrets_of_their_own() -> None:
    secrets = {"JUDGE_API_KEY": "equilibrate-judge", "HF_TOKEN": "equilibrate-hub"}
    config = RUN.model_copy(update={"kubeflow": KubeflowConfig(env_secrets=secrets)})
    spec, platform = documents(config)
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert defaults["secret_judge_api_key"]["defaultValue"] == "equilibrate-judge"
    executors = platform["deploymentSpec"]["executors"]
    for name in ("exec-classify-prompts", "exec-import-model", "exec-resolve-inputs"):
        found = {
            entry["envVar"]: secret["secretNameParameter"]["componentInputParameter"]
            for secret in executors[name]["secretAsEnv"]
            for entry in secret["keyToEnv"]
        }
        assert found["JUDGE_API_KEY"] == "pipelinechannel--secret_judge_api_key"
        assert found["HF_TOKEN"] == "pipelinechannel--secret_hf_token"
    assert len(executors["exec-record-run"]["secretAsEnv"]) == 1  # it needs none of these


def test_a_variable_of_a_secret_has_a_variables_name() -> None:
    with pytest.raises(ValueError, match="JUDGE-KEY"):
        KubeflowConfig(env_secrets={"JUDGE-KEY": "equilibrate-judge"})


def test_only_the_exit_handler_gets_a_token_for_the_run_api(compiled: Any) -> None:
    (default,) = yaml.safe_load_all((MANIFESTS / "multi-user" / "run-api-token.yaml").read_text())
    wanted = default["spec"]["selector"]["matchLabels"]
    executors = compiled[1]["deploymentSpec"]["executors"]
    labels = {n: e.get("podMetadata", {}).get("labels", {}) for n, e in executors.items()}
    labelled = [n for n, found in labels.items() if wanted.items() <= found.items()]
    assert labelled == ["exec-record-run"]
    (mount,) = default["spec"]["volumeMounts"]
    (source,) = default["spec"]["volumes"][0]["projected"]["sources"]
    path = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert path == TOKEN_PATH == default["spec"]["env"][0]["value"]


@pytest.mark.parametrize(("run", "num_cached"), [(RUN, 17), (STUDY, 45)])
def test_another_cache_epoch_gives_every_cached_task_an_input_no_run_had(
    run: RunConfig, num_cached: int
) -> None:
    def inputs(epoch: int) -> dict[str, str]:
        config = run.model_copy(update={"kubeflow": KubeflowConfig(cache_epoch=epoch)})
        (tasks,) = (
            component["dag"]["tasks"]
            for component in documents(config)[0]["components"].values()
            if "import-data" in component.get("dag", {}).get("tasks", ())
        )
        cached = {n: t for n, t in tasks.items() if t["cachingOptions"].get("enableCache")}
        return {
            name: task["inputs"]["parameters"]["code_digest"]["runtimeValue"]["constant"]
            for name, task in cached.items()
        }

    before, after = inputs(0), inputs(1)
    assert len(before) == num_cached and before.keys() == after.keys()
    assert all(after[name] == f"{digest}.1" for name, digest in before.items())


def test_the_parameters_of_a_pipeline_hold_no_secret_but_its_name() -> None:
    text = compile_run(RUN).text
    assert "secretKey: AWS_SECRET_ACCESS_KEY" in text
    assert "valueFrom" not in text


def test_models_are_read_from_the_shared_volume(compiled: Any) -> None:
    spec, platform = compiled
    executors = platform["deploymentSpec"]["executors"]
    mounted = {n for n, e in executors.items() if "pvcMount" in e}
    assert {"exec-import-model", "exec-judge-responses", "exec-train-policy"} <= mounted
    assert "exec-write-report" not in mounted
    for name in mounted:
        variables = spec["deploymentSpec"]["executors"][name]["container"]["env"]
        assert {"name": "EQUILIBRATE_MODEL_CACHE", "value": "/models"} in variables


def test_the_graph_in_the_ui_is_numbered_like_the_documentation(compiled: Any) -> None:
    tasks = group(compiled[0], "comp-condition")["dag"]["tasks"]
    names = {task["taskInfo"]["name"] for task in tasks.values()}
    assert {"1 Import data", "5 Train cost model", "8 Train policy", "13 Publish model"} <= names


def test_finished_runs_are_cleared_away(compiled: Any) -> None:
    assert compiled[1]["pipelineConfig"]["resourceTtlOnCompletion"] == 7 * 24 * 3600


def test_everything_but_the_resolver_waits_for_news(compiled: Any) -> None:
    outer = group(compiled[0], "comp-exit-handler")["dag"]["tasks"]
    assert set(outer) == {"resolve-inputs", "condition-2"}
    condition = outer["condition-2"]["triggerPolicy"]["condition"]
    assert condition.endswith("resolve-inputs-Output'] == 'changed'")


def test_what_is_not_configured_is_not_there() -> None:
    bare = {"s3_secret": None, "model_cache": None, "queue": "equilibrate"}
    bare |= {"train": {"accelerators": 0}, "vllm": {"accelerators": 0}}
    config = RUN.model_copy(update={"kubeflow": KubeflowConfig.model_validate(bare)})
    spec, platform = documents(config)
    assert not {"s3_secret", "model_cache"} & set(spec["root"]["inputDefinitions"]["parameters"])
    text = yaml.safe_dump(platform)
    assert "secretAsEnv" not in text and "pvcMount" not in text
    assert "queue-name" not in text  # no task has an accelerator here


def test_tasks_with_accelerators_wait_in_their_queue() -> None:
    config = RUN.model_copy(update={"kubeflow": KubeflowConfig(queue="equilibrate")})
    executors = documents(config)[1]["deploymentSpec"]["executors"]
    labels = executors["exec-train-policy"]["podMetadata"]["labels"]
    assert labels == {"kueue.x-k8s.io/queue-name": "equilibrate"}
    assert "podMetadata" not in executors["exec-import-data"]


@pytest.mark.parametrize(
    ("stage", "kubeflow", "expected"),
    [
        # stage, what the run file says -> cores, memory, accelerators, seconds
        ("train_scorer", {}, ("8", "64Gi", 1, 259_200)),
        ("train_policy", {}, ("16", "128Gi", 1, 259_200)),
        ("import_model", {}, ("2", "32Gi", 0, 21_600)),
        ("record_run", {}, ("500m", "1Gi", 0, 1_800)),
        ("train_scorer", {"train": {"memory": "96Gi"}}, ("8", "96Gi", 1, 259_200)),
        ("train_policy", {"train": {"memory": "96Gi"}}, ("16", "96Gi", 1, 259_200)),
        # the pool's default, written out: a choice like any other
        ("train_policy", {"train": {"memory": "64Gi"}}, ("16", "64Gi", 1, 259_200)),
        ("import_model", {"cpu": {"cpu": "4"}}, ("4", "32Gi", 0, 21_600)),
        ("record_run", {"cpu": {"timeout_s": 3600}}, ("500m", "1Gi", 0, 3600)),
        ("judge_responses", {"vllm": {"accelerators": 0}}, ("8", "64Gi", 0, 86_400)),
        ("train_policy", {"vllm": {"memory": "96Gi"}}, ("16", "128Gi", 1, 259_200)),
        (
            "train_policy",
            {
                "train": {"memory": "96Gi", "accelerators": 2, "timeout_s": 99},
                "stages": {"train_policy": {"memory": "512Gi", "accelerators": 8}},
            },
            ("16", "512Gi", 8, 99),
        ),
        ("train_policy", {"stages": {"train_scorer": {"cpu": "64"}}}, ("16", "128Gi", 1, 259_200)),
    ],
)
def test_a_stage_goes_before_its_pool_and_both_before_what_is_customary(
    stage: StageName, kubeflow: dict[str, Any], expected: tuple[str, str, int, int]
) -> None:
    config = KubeflowConfig.model_validate(kubeflow)
    again = KubeflowConfig.model_validate(config.model_dump(mode="json"))
    for found in (config.resources(stage), again.resources(stage)):
        assert (found.cpu, found.memory, found.accelerators, found.timeout_s) == expected


def test_a_local_run_has_no_placement_parameters() -> None:
    names = set(alignment_pipeline(load_run(LAPTOP)).component_spec.inputs)
    assert names and all(name.endswith("_config") for name in names)


def test_only_a_cluster_tries_a_task_again() -> None:
    config = load_run(LAPTOP).model_copy(update={"kubeflow": KubeflowConfig(max_retries=2)})
    assert "retry_policy" not in str(alignment_pipeline(config).pipeline_spec)
    assert "retry_policy" in str(alignment_pipeline(config, cluster=True).pipeline_spec)


def on_two_nodes(**kubeflow: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    values = RUN.model_dump(mode="json")
    values["train_policy"]["num_nodes"] = 2
    values["train_policy"]["training"]["checkpoint_uri"] = "s3://bucket/checkpoints"
    values["kubeflow"] |= kubeflow
    return documents(RunConfig.model_validate(values))


def test_a_training_on_several_nodes_hands_its_placement_to_a_train_job() -> None:
    spec, platform = on_two_nodes(queue="equilibrate")
    inputs = group(spec, "comp-condition")["dag"]["tasks"]["train-policy"]["inputs"]["parameters"]
    nodes = inputs["nodes"]["runtimeValue"]["constant"]
    for name in ("cpu", "memory", "accelerators"):
        assert nodes[name] == f"{{{{$.inputs.parameters['pipelinechannel--train_policy_{name}']}}}}"
    assert nodes["queue"] == "equilibrate" and nodes["timeout_s"] == 72 * 3600
    for name in ("node_selector", "tolerations"):
        assert inputs[name] == {"componentInputParameter": f"pipelinechannel--{name}"}
    launcher = platform["deploymentSpec"]["executors"]["exec-train-policy"]
    assert set(launcher) == {"secretAsEnv"}  # no GPU, no queue, and no time limit of its own
    container = spec["deploymentSpec"]["executors"]["exec-train-policy"]["container"]
    assert "accelerator" not in container["resources"]


def test_the_fields_that_are_compiled_in_are_those_of_a_node_placement() -> None:
    spec, _ = on_two_nodes(queue="equilibrate")
    inputs = group(spec, "comp-condition")["dag"]["tasks"]["train-policy"]["inputs"]["parameters"]
    nodes = inputs["nodes"]["runtimeValue"]["constant"]
    filled = {name: "8" if "$" in str(value) else value for name, value in nodes.items()}
    placement = NodePlacement.model_validate(filled)
    assert placement.accelerators == 8
    others = {"node_selector", "tolerations"}
    assert set(nodes) | others == set(NodePlacement.model_fields)


def test_a_training_on_one_node_is_given_no_nodes(compiled: Any) -> None:
    inputs = group(compiled[0], "comp-condition")["dag"]["tasks"]["train-policy"]["inputs"]
    assert not {"nodes", "node_selector", "tolerations"} & set(inputs["parameters"])


def test_the_exit_handler_cleans_up_where_there_are_train_jobs(compiled: Any) -> None:
    defaults = [
        json.loads(s["root"]["inputDefinitions"]["parameters"]["record_run_config"]["defaultValue"])
        for s in (compiled[0], on_two_nodes()[0])
    ]
    assert [section["train_jobs"] for section in defaults] == [False, True]


def test_a_run_for_several_nodes_is_refused_on_this_machine(tmp_path: Path) -> None:
    values = load_run(LAPTOP).model_dump(mode="json")
    values["train_policy"]["num_nodes"] = 2
    values["train_policy"]["training"]["checkpoint_uri"] = "s3://bucket/checkpoints"
    with pytest.raises(ConfigError, match="num_nodes: 2 trains on a cluster"):
        run_locally(RunConfig.model_validate(values), tmp_path)


def constants(value: Any) -> list[Any]:
    """Every constant that a task is given, wherever it stands in a compiled pipeline."""
    if isinstance(value, list):
        return [found for item in value for found in constants(item)]
    if not isinstance(value, dict):
        return []
    own = [value["runtimeValue"]["constant"]] if "runtimeValue" in value else []
    return own + [found for item in value.values() for found in constants(item)]


def study() -> RunConfig:
    values = load_run(LAPTOP.with_name("ablation.yaml")).model_dump(mode="json")
    values["resolve_inputs"]["skip_unchanged"] = True
    return RunConfig.model_validate(values)


@pytest.mark.parametrize("run", ["scheduled", "two nodes", "study"])
def test_what_tasks_are_given_is_still_json_once_the_backend_filled_it_in(run: str) -> None:
    """Kubeflow's launcher replaces placeholders in the finished JSON and escapes nothing."""
    compiled = {"scheduled": lambda: documents(RUN), "two nodes": on_two_nodes}
    spec, _ = compiled.get(run, lambda: documents(study()))()
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    filled = 0
    for constant in constants(spec):
        text = json.dumps({"value": constant})
        for name in re.findall(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(\w+)'\]\}\}", text):
            default = parameters[name]["defaultValue"]
            value = default if isinstance(default, str) else json.dumps(default)
            text = text.replace(f"{{{{$.inputs.parameters['pipelinechannel--{name}']}}}}", value)
            filled += 1
        json.loads(text)
    assert filled > 20


def test_every_section_that_a_run_may_change_is_news_to_the_resolver() -> None:
    values = RUN.model_dump(mode="json")
    values |= {"build_pairs": {}, "train_control": {"loss": "dpo"}}
    for config in (RunConfig.model_validate(values), study()):
        spec, _ = documents(config)
        sections = {n for n in spec["root"]["inputDefinitions"]["parameters"] if "_config" in n}
        tasks = group(spec, "comp-exit-handler")["dag"]["tasks"]
        given = tasks["resolve-inputs"]["inputs"]["parameters"].values()
        told = {p.get("componentInputParameter", "").partition("--")[2] for p in given}
        assert sections - told == {"record_run_config"}
        assert {"cpu_image", "train_image", "vllm_image"} <= told
        assert "arm_" not in str(sections)  # compiled in, and so part of the constant settings
