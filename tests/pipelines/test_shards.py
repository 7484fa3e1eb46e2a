"""Answers in shards: so many tasks a model, one task after them, and nothing else changed."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from equilibrate_core.config import parse_config
from equilibrate_core.errors import ConfigError
from pipelines.alignment import alignment_pipeline
from pipelines.local import task_titles
from pipelines.run_config import RunConfig
from pipelines.sections import sections
from pipelines.submit import compile_run

CONFIGS = Path(__file__).parents[2] / "pipelines" / "configs"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def config(num_shards: int, name: str = "laptop", **fields: Any) -> RunConfig:
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    values["generate_responses"] |= {"num_shards": num_shards, **fields}
    values["kubeflow"] = {**values.get("kubeflow", {}), "max_retries": 2}
    return parse_config(values, RunConfig, "run.yaml")


@cache
def documents(num_shards: int) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(compile_run(config(num_shards)).text)
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(num_shards: int) -> dict[str, Any]:
    components = documents(num_shards)[0]["components"]
    (found,) = [c for name, c in components.items() if name.startswith("comp-exit-handler")]
    return dict(found["dag"]["tasks"])


def of_stage(found: dict[str, Any], stage: str) -> dict[str, Any]:
    return {n: t for n, t in found.items() if n.rstrip("-0123456789") == stage}


def parameters(task: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.get("componentInputParameter") or value["runtimeValue"]["constant"]
        for name, value in task["inputs"]["parameters"].items()
    }


def producer(task: dict[str, Any], argument: str) -> str:
    return task["inputs"]["artifacts"][argument]["taskOutputArtifact"]["producerTask"]


def test_every_model_is_asked_by_so_many_tasks_that_differ_in_their_shard_alone() -> None:
    asked = of_stage(tasks(3), "generate-responses").values()
    by_model: dict[str, list[dict[str, Any]]] = {}
    for task in asked:
        given = parameters(task)
        assert given["config"] == "pipelinechannel--generate_responses_config"
        by_model.setdefault(given["model_name"], []).append(given)
    assert by_model.keys() == {"base", "aligned"}
    for given in by_model.values():
        assert [(one.pop("shard"), one.pop("num_shards")) for one in given] == [
            (0.0, 3.0), (1.0, 3.0), (2.0, 3.0)
        ]  # fmt: skip
        assert given[0] == given[1] == given[2]
    prompts = {producer(task, "prompts") for task in asked}
    assert prompts == {"classify-prompts"}


def test_their_answers_are_gathered_once_a_model_and_nobody_else_reads_them() -> None:
    found = tasks(3)
    gathered = of_stage(found, "gather-generations")
    assert len(gathered) == 2
    parts = [
        producer(task, argument)
        for task in gathered.values()
        for argument in ("part_0", "part_1", "part_2")
    ]
    assert sorted(parts) == sorted(of_stage(found, "generate-responses"))
    for name, task in gathered.items():
        assert set(task["inputs"]["artifacts"]) == {"part_0", "part_1", "part_2"}
        asked = [found[producer(task, f"part_{shard}")] for shard in range(3)]
        assert [parameters(one)["shard"] for one in asked] == [0, 1, 2]
        assert len({parameters(one)["model_name"] for one in asked}) == 1, name
    readers = {
        name
        for name, task in found.items()
        for source in task.get("inputs", {}).get("artifacts", {}).values()
        if source.get("taskOutputArtifact", {}).get("producerTask", "").startswith("generate-")
    }
    assert readers == set(gathered)
    report = found["write-report"]
    assert producer(report, "base_generations") == "gather-generations"
    assert producer(report, "aligned_generations") == "gather-generations-2"
    assert producer(found["judge-responses-2"], "other_generations") == "gather-generations"


def test_every_part_is_cached_retried_and_placed_by_itself_on_the_stages_resources() -> None:
    spec, executors = documents(3)
    containers = spec["deploymentSpec"]["executors"]
    for name, task in of_stage(tasks(3), "generate-responses").items():
        assert task["cachingOptions"] == {"enableCache": True}
        assert task["retryPolicy"]["maxRetryCount"] == 2
        executor = task["componentRef"]["name"].replace("comp-", "exec-")
        resources = containers[executor]["container"]["resources"]
        count = resources["accelerator"]["resourceCount"]
        assert count.endswith("['pipelinechannel--generate_responses_accelerators']}}"), name
        assert executors[executor]["activeDeadlineSeconds"]
    for task in of_stage(tasks(3), "gather-generations").values():
        executor = task["componentRef"]["name"].replace("comp-", "exec-")
        assert "accelerator" not in containers[executor]["container"]["resources"]
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert "gather_generations_memory" in declared


def test_without_shards_the_graph_is_as_it_was() -> None:
    found = tasks(1)
    assert of_stage(found, "gather-generations") == {}
    assert len(of_stage(found, "generate-responses")) == 2
    for task in of_stage(found, "generate-responses").values():
        assert not {"shard", "num_shards"} & set(task["inputs"]["parameters"])
    declared = documents(1)[0]["root"]["inputDefinitions"]["parameters"]
    assert not any(name.startswith("gather_") for name in declared)


def test_the_number_of_shards_is_no_parameter_that_could_be_edited_in_vain() -> None:
    texts = [sections(config(number))["generate_responses_config"] for number in (1, 3)]
    assert texts[0] == texts[1]
    assert "num_shards" not in texts[0] and '"shard"' not in texts[0]
    assert "shard_size" in texts[0]


def test_a_person_sees_which_part_a_task_answers() -> None:
    titles = task_titles(alignment_pipeline(config(2)))
    assert titles["generate-responses"] == "Generate with base model, 1 of 2"
    assert titles["generate-responses-4"] == "Generate with aligned model, 2 of 2"
    assert titles["gather-generations-2"] == "Gather answers of aligned model"


def test_the_arms_of_a_study_are_asked_in_shards_too() -> None:
    components = alignment_pipeline(config(2, "ablation")).pipeline_spec.components
    (found,) = [c for name, c in components.items() if name.startswith("comp-exit-handler")]
    names = [name.rstrip("-0123456789") for name in found.dag.tasks]
    assert names.count("generate-responses") == 2 * 7
    assert names.count("gather-generations") == 7
    assert names.count("gather-arms") == 5
    source = found.dag.tasks["gather-arms"].inputs.artifacts["generations"]
    assert source.task_output_artifact.producer_task.startswith("gather-generations")


def test_a_run_file_does_not_choose_one_shard() -> None:
    with pytest.raises(ConfigError, match=r"generate_responses\.shard: .* remove the field"):
        config(3, shard=1)
