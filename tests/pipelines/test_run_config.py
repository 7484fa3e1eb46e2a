"""Run files: all of ours load and compile, mistakes are named, nothing heavy is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from equilibrate_core.config import parse_config
from equilibrate_core.errors import ConfigError
from pipelines.alignment import alignment_pipeline
from pipelines.kubeflow_config import StageName
from pipelines.run_config import RunConfig, load_run
from pipelines.sections import sections
from pipelines.submit import compile_run
from pipelines.validation import local_store_gaps

CONFIGS = sorted((Path(__file__).parents[2] / "pipelines" / "configs").glob("*.yaml"))
LAPTOP = next(path for path in CONFIGS if path.name == "laptop.yaml")


def values(**changes: Any) -> dict[str, Any]:
    return yaml.safe_load(LAPTOP.read_text()) | changes


def compiled(config: RunConfig, tmp_path: Path, *, cluster: bool = False) -> dict[str, Any]:
    target = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(alignment_pipeline(config, cluster=cluster), str(target))
    return next(iter(yaml.safe_load_all(target.read_text())))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_every_run_file_loads_and_compiles(path: Path, tmp_path: Path) -> None:
    for cluster in (False, True):
        spec = compiled(load_run(path), tmp_path, cluster=cluster)
        assert spec["pipelineInfo"]["name"] == load_run(path).name


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_clusters_run_file_is_what_the_sizing_computes_and_leaves_nothing_to_warn_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = load_run(LAPTOP.with_name("llama3-8b.yaml"))
    text = compile_run(run).text
    assert not [r for r in caplog.records if r.name.startswith("pipelines")]
    assert local_store_gaps(run) == [] and not run.local.object_store
    trainings = [*vars(run.train_scorer).values(), run.train_policy]
    for training in trainings:
        assert (training.num_nodes, training.num_processes) == (1, 8)
        loop = training.training
        assert (loop.precision, loop.zero_stage, loop.micro_batch_size) == ("bfloat16", 2, 8)
        assert loop.gradient_checkpointing and str(loop.checkpoint_uri).startswith("s3://")
    stages: list[tuple[StageName, int]] = [
        ("import_data", 0), ("classify_prompts", 0), ("train_scorer", 8), ("train_policy", 8),
        ("generate_responses", 1), ("score_tokens", 1), ("judge_responses", 1),
    ]  # fmt: skip
    for stage, accelerators in stages:
        assert run.kubeflow.resources(stage).accelerators == accelerators, stage
    assert all(f"equilibrate-{secret}" in text for secret in ("s3", "judge", "hub"))
    gate = run.write_report.gate.model_dump()
    assert None not in gate.values() and not run.write_report.is_sample


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_control_is_trained_judged_and_benchmarked_beside_the_policy(tmp_path: Path) -> None:
    plain = values()["train_policy"] | {"loss": "dpo"}
    config = parse_config(values(train_control=plain), RunConfig, "run.yaml")
    spec = compiled(config, tmp_path)
    (graph,) = (c["dag"]["tasks"] for n, c in spec["components"].items() if "exit-handler" in n)
    names = {task["taskInfo"]["name"] for task in graph.values()}
    assert {
        "8 Train control policy", "9 Generate with control model", "10 Judge control model",
        "11 Benchmark control model",
    } <= names  # fmt: skip
    given = graph["write-report"]["inputs"]["artifacts"]
    assert {"control_policy", "control_generations", "control_verdicts", "control_benchmarks"} <= (
        set(given)
    )
    checked = [n for n, t in graph.items() if "labelled_pairs" in t["inputs"].get("artifacts", {})]
    assert len(checked) == 1, "one model's judging is enough to check the judge against people"
    labelled = graph[checked[0]]["inputs"]["artifacts"]["labelled_answers"]["taskOutputArtifact"]
    assert labelled["producerTask"] == "import-data"
    given = {name: task["inputs"].get("artifacts", {}) for name, task in graph.items()}
    cost_model = given[checked[0]]["cost_model"]["taskOutputArtifact"]["producerTask"]
    assert given[checked[0]]["scorer_pairs"] == given[cost_model]["pairs"], "what it learned from"
    assert [name for name in given if "scorer_pairs" in given[name]] == checked


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_models_are_asked_judged_and_benchmarked_by_one_section_each(tmp_path: Path) -> None:
    """Sections of their own could be edited apart, and only the report would find it."""
    plain = values()["train_policy"] | {"loss": "dpo"}
    config = parse_config(values(train_control=plain), RunConfig, "run.yaml")
    (graph,) = (
        c["dag"]["tasks"]
        for n, c in compiled(config, tmp_path)["components"].items()
        if "exit-handler" in n
    )
    for stage in ("generate-responses", "judge-responses", "score-benchmarks"):
        tasks = [t["inputs"]["parameters"] for n, t in graph.items() if n.startswith(stage)]
        assert len(tasks) == 3
        assert len({task["config"]["componentInputParameter"] for task in tasks}) == 1
    names = {
        t["inputs"]["parameters"]["model_name"]["runtimeValue"]["constant"]
        for n, t in graph.items()
        if n.startswith("generate-responses")
    }
    assert names == {"base", "aligned", "control"}


def test_a_control_of_another_precision_is_refused() -> None:
    training = values()["train_policy"]["training"] | {"precision": "bfloat16"}
    control = values()["train_policy"] | {"training": training}
    with pytest.raises(ConfigError, match=r"train_control\.training\.precision differ"):
        parse_config(values(train_control=control), RunConfig, "run.yaml")


@pytest.mark.parametrize("policy", ["train_policy", "train_control"])
def test_a_score_that_needs_rewards_of_pairs_nobody_reads_is_refused(policy: str) -> None:
    changed = {policy: values()["train_policy"] | {"ama": {"score": "combined"}}}
    with pytest.raises(ConfigError, match=rf"{policy}\.ama\.score: combined needs the rewards"):
        parse_config(values(**changed), RunConfig, "run.yaml")
    read = values()["score_tokens"] | {"rewards": "all_pairs"}
    parse_config(values(**changed, score_tokens=read), RunConfig, "run.yaml")
    changed[policy]["loss"] = "dpo"  # no mask, no rewards
    parse_config(values(**changed), RunConfig, "run.yaml")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_every_task_sees_its_own_section_and_code(tmp_path: Path) -> None:
    config = load_run(LAPTOP)
    spec = compiled(config, tmp_path)
    (inner,) = [c for n, c in spec["components"].items() if n.startswith("comp-exit-handler")]
    tasks = inner["dag"]["tasks"]
    used = set()
    for name, task in tasks.items():
        inputs = task["inputs"]["parameters"]
        used.add(inputs["config"]["componentInputParameter"].removeprefix("pipelinechannel--"))
        assert inputs["code_digest"]["runtimeValue"]["constant"], name
    idle = {"judge_model_config", "train_control_config"}
    expected = set(sections(config)) - {"record_run_config", *idle}
    assert used == expected
    uncached = {n for n, t in tasks.items() if not t["cachingOptions"].get("enableCache")}
    assert uncached == {"resolve-inputs", "publish-model"}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_built_pairs_join_the_train_pairs_only_when_asked_for(tmp_path: Path) -> None:
    def tasks_of(spec: dict[str, Any]) -> dict[str, Any]:
        (inner,) = [c for n, c in spec["components"].items() if n.startswith("comp-exit-handler")]
        return inner["dag"]["tasks"]

    plain = compiled(load_run(LAPTOP), tmp_path)
    assert "build-pairs" not in tasks_of(plain)
    assert "build_pairs_config" not in plain["root"]["inputDefinitions"]["parameters"]
    config = parse_config(values(build_pairs={"num_samples": 4}), RunConfig, "test")
    spec = compiled(config, tmp_path)
    default = spec["root"]["inputDefinitions"]["parameters"]["build_pairs_config"]["defaultValue"]
    assert '"num_samples": 4' in default
    tasks = tasks_of(spec)
    pairs = tasks["score-tokens"]["inputs"]["artifacts"]["pairs"]["taskOutputArtifact"]
    assert (pairs["producerTask"], pairs["outputArtifactKey"]) == ("build-pairs", "pairs")
    reported = tasks["write-report"]["inputs"]["artifacts"]["train_pairs"]["taskOutputArtifact"]
    assert reported == pairs, "the report shows the data card of what was trained on"
    known = tasks["build-pairs"]["inputs"]["artifacts"]["train_pairs"]["taskOutputArtifact"]
    assert (known["producerTask"], known["outputArtifactKey"]) == (
        "assemble-dataset",
        "train_pairs",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nam": "x"}, "nam: unknown field"),
        ({"name": "Has Spaces"}, "name:"),
        ({"score_tokens": {"precision": "bfloat16"}}, "would not match the policy's at step 0"),
        (
            {
                "score_tokens": {"precision": "float32", "segment": "response"},
                "train_policy": {
                    "ama": {"baseline": "response_mean"},
                    "training": {"precision": "float32"},
                },
            },
            "compares a number with itself",
        ),
        (
            {
                "score_tokens": {"precision": "float32", "segment": "response"},
                "train_control": {
                    "loss": "random_mask",
                    "ama": {"baseline": "response_mean"},
                    "training": {"precision": "float32"},
                },
            },
            "train_control.ama.baseline response_mean",
        ),
        (
            {"train_scorer": {"eval_cost": {"kind": "cost", "rows": "first_half"}}},
            "must not judge the result",
        ),
        ({"train_scorer": {"reward": {"kind": "cost"}}}, "reward needs kind: reward"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(values(**changes), RunConfig, "run.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("run.yaml: ")


HEAVY = ("torch", "transformers", "vllm", "deepspeed", "lm_eval", "datasets")
PROBE = f"""
import sys
from pathlib import Path
import pipelines.cli
from pipelines.run_config import load_run
load_run(Path({str(LAPTOP)!r}))
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_loading_a_run_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compiling_imports_nothing_heavy() -> None:
    probe = PROBE.replace(
        "print(",
        "from pipelines.alignment import alignment_pipeline\n"
        f"alignment_pipeline(load_run(Path({str(LAPTOP)!r})))\nprint(",
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("cluster", [False, True])
def test_only_local_tasks_see_the_libraries_installed_here(
    cluster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster images decide; two people's laptops must not compile two pipelines."""

    def codes(version: str) -> dict[str, str]:
        monkeypatch.setattr("equilibrate_core.digests.version", lambda name: version)
        spec = compiled(load_run(LAPTOP), tmp_path, cluster=cluster)
        tasks = {
            name: task
            for component in spec["components"].values()
            for name, task in component.get("dag", {}).get("tasks", {}).items()
        }
        inputs = {name: task["inputs"].get("parameters", {}) for name, task in tasks.items()}
        return {
            name: given["code_digest"]["runtimeValue"]["constant"]
            for name, given in inputs.items()
            if "code_digest" in given
        }

    before, after = codes("1"), codes("2")
    changed = {name for name in before if before[name] != after[name]}
    if cluster:
        assert changed == set()
    else:
        assert {"score-benchmarks", "generate-responses", "train-policy"} <= changed
        assert not changed & {"import-data", "assemble-dataset", "write-report"}
