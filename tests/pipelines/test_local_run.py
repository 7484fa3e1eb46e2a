"""The whole pipeline in kfp's local runner, on a tiny model: results, caches, failures."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from equilibrate_core.artifacts import read_manifest, verify_artifact
from equilibrate_core.config import parse_config
from equilibrate_core.errors import ConfigError, StageError
from equilibrate_core.s3 import create_bucket, list_objects, put_if_absent
from pipelines import local, tasks
from pipelines.local import Outcome, run_locally
from pipelines.object_store import object_store
from pipelines.run_config import RunConfig
from tests.tiny_model import make_tiny_model

LAPTOP = Path(__file__).parents[2] / "pipelines" / "configs" / "laptop.yaml"
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny_run(model: Path) -> dict[str, Any]:
    """The laptop run with a tiny random model, one benchmark and few prompts."""
    values = yaml.safe_load(LAPTOP.read_text())
    values["name"] = "tiny"
    values["import_model"] = {"uri": str(model)}
    # A byte-level vocabulary makes the judge's prompts long.
    judge = {"backend": "transformers", "dtype": "float32", "max_model_len": 6000, "batch_size": 4}
    for stage in ("classify_prompts", "judge_responses"):
        values[stage] |= {"judge": judge}
    generator = {"backend": "transformers", "dtype": "float32", "max_model_len": 1024}
    values["generate_responses"] = {
        "generator": generator,
        "max_prompts_per_suite": 3,
        "sampling": {"max_tokens": 8},
    }
    for scorer in values["train_scorer"].values():
        scorer["max_length"] = 1024
    values["score_tokens"]["max_length"] = values["train_policy"]["max_length"] = 1024
    values["score_benchmarks"] |= {"benchmarks": ["arc_easy"], "dtype": "float32"}
    for source in values["import_data"]["sources"]:
        source["limit"] = 60 if source["adapter"] == "pairs" else 12
    return values


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("local-run")
    make_tiny_model(root / "model", max_positions=8192)
    return root


@pytest.fixture(scope="module")
def first(workplace: Path) -> Outcome:
    temporary = workplace / "tmp"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        return go(workplace, lambda values: None)


def go(workplace: Path, change: Callable[[dict[str, Any]], None]) -> Outcome:
    values = tiny_run(workplace / "model")
    change(values)
    return run_locally(parse_config(values, RunConfig, "tiny run"), workplace / "runs")


def ran(outcome: Outcome) -> set[str]:
    return {task for task, result, _ in outcome.tasks if result == "ran"}


def artifact(workplace: Path, task: str, output: str) -> Path:
    found = (workplace / "runs" / "tiny" / "artifacts").glob(f"*/{task}/{output}")
    return max(found, key=lambda path: path.stat().st_mtime)


def test_every_stage_leaves_a_sealed_artifact(first: Outcome, workplace: Path) -> None:
    outputs = {
        "import-data": "prompts",
        "import-model": "base_model",
        "classify-prompts": "labelled_prompts",
        "assemble-dataset": "train_pairs",
        "train-scorer": "scorer",
        "score-tokens": "scored_pairs",
        "train-policy": "policy",
        "generate-responses": "generations",
        "judge-responses": "verdicts",
        "score-benchmarks": "benchmark_scores",
        "write-report": "report",
        "publish-model": "publication",
    }
    for task, output in outputs.items():
        manifest = verify_artifact(artifact(workplace, task, output))
        assert manifest.stage == task.replace("-", "_")


def test_a_run_leaves_no_temporary_files(first: Outcome, workplace: Path) -> None:
    assert list((workplace / "tmp").iterdir()) == []


def test_the_published_model_is_the_evaluated_one(first: Outcome, workplace: Path) -> None:
    report = json.loads((first.folder / "report.json").read_text())
    policy = read_manifest(artifact(workplace, "train-policy", "policy"))
    assert first.publication["published"]
    assert first.publication["digest"] == report["policy_digest"] == policy.digest
    with pytest.MonkeyPatch.context() as patch, object_store(workplace / "runs/object_store") as s:
        for name, value in s.environment.items():
            patch.setenv(name, value)
        names = {o.name for o in list_objects(first.publication["uri"])}
        records = list_objects("s3://equilibrate/records")
    assert {"model.safetensors", "manifest.json", "README.md", "report.html"} <= names
    assert len(records) >= 1


def test_the_gate_is_labelled_as_what_it_is(first: Outcome) -> None:
    report = json.loads((first.folder / "report.json").read_text())
    assert report["gate"]["label"] == "mechanics only"
    assert "mechanics only" in (first.folder / "report.html").read_text()


def test_every_judge_is_checked_against_people(first: Outcome, workplace: Path) -> None:
    report = json.loads((first.folder / "report.json").read_text())
    most = yaml.safe_load(LAPTOP.read_text())["judge_responses"]["max_human_labels"]
    for name in ("answer_judge", "refusal_judge", "preference_judge", "cost_judge"):
        checked = report[name]["num_gold"] + report[name]["num_unscored"]
        assert 0 < checked <= most, name
    assert read_manifest(artifact(workplace, "import-data", "labelled_answers")).rows == 12


def test_an_unchanged_run_comes_from_the_cache(first: Outcome, workplace: Path) -> None:
    again = go(workplace, lambda values: None)
    assert ran(again) == {"resolve-inputs", "publish-model", "record-run"}
    assert [result for _, result, _ in again.tasks].count("cached") == len(first.tasks) - 3
    assert again.publication["uri"] == first.publication["uri"]


@pytest.fixture(scope="module")
def edited(first: Outcome, workplace: Path) -> Outcome:
    """The first run with another section of one stage, and the prompts of another in two parts."""

    def edit(values: dict[str, Any]) -> None:
        values["judge_responses"]["seed"] = 5
        values["generate_responses"]["num_shards"] = 2

    return go(workplace, edit)


def test_an_edited_section_reruns_its_stage_and_dependents(edited: Outcome) -> None:
    always = {"resolve-inputs", "publish-model", "record-run"}
    stages = [name.rstrip("-0123456789") for name in ran(edited) - always]
    asked = [*4 * ["generate-responses"], *2 * ["gather-generations"]]
    assert sorted(stages) == sorted([*asked, *2 * ["judge-responses"], "write-report"])


def test_answers_of_two_shards_are_those_of_one_task(edited: Outcome, workplace: Path) -> None:
    folder = workplace / "runs" / "tiny" / "artifacts"
    one_task = min(path.parent for path in folder.glob("*/generate-responses"))
    sharded = artifact(workplace, "gather-generations", "generations").parents[1]
    for task in ("generate-responses", "generate-responses-2"):
        one = read_manifest(one_task / task / "generations")
        both = read_manifest(
            sharded / task.replace("generate-responses", "gather-generations") / "generations"
        )
        assert (both.digest, both.rows, both.counts) == (one.digest, one.rows, one.counts)
        assert both.config == one.config
    report = json.loads((edited.folder / "report.json").read_text())
    assert report["policy_digest"] == edited.publication["digest"]


def with_study(values: dict[str, Any]) -> None:
    values["study"] = {
        "reference": "adpo+fdc",
        "arms": [
            {"name": "dpo+all", "selection": "all", "loss": "dpo"},
            {"name": "dpo+fdc", "selection": "fdc", "loss": "dpo"},
            {"name": "adpo+fdc"},
        ],
    }


def test_a_study_trains_its_arms_alone_and_reports_all_models(
    first: Outcome, workplace: Path
) -> None:
    study = go(workplace, with_study)
    new = [task.rstrip("-0123456789") for task, result, _ in study.tasks if result == "ran"]
    # Scorers, base answers and everything else of the run come from the cache.
    always = ["resolve-inputs", "write-report", "publish-model", "record-run"]
    arm = ["train-policy", "generate-responses", "judge-responses", "score-benchmarks"]
    data = ["assemble-dataset", "score-tokens"]  # of dpo+all; dpo+fdc learns from the run's own
    assert sorted(new) == sorted([*always, *data, *2 * [*arm, "gather-arms"]])
    report = json.loads((study.folder / "report.json").read_text())
    told = {arm["name"]: arm for arm in report["study"]["arms"]}
    assert list(told) == ["base", "dpo+all", "dpo+fdc", "adpo+fdc"]
    assert told["dpo+all"]["selection"] == "all"
    assert sum(told["dpo+all"]["pairs"].values()) > sum(told["dpo+fdc"]["pairs"].values())
    assert told["dpo+fdc"]["pairs"] == told["adpo+fdc"]["pairs"]
    assert (told["dpo+fdc"]["loss"], told["adpo+fdc"]["loss"]) == ("dpo", "adpo")
    assert told["adpo+fdc"]["policy_digest"] == report["policy_digest"]
    assert len({arm["policy_digest"] for arm in told.values()}) == 4
    for name in ("dpo+all", "dpo+fdc"):
        assert told[name]["figures"].keys() == told["adpo+fdc"]["figures"].keys()
        paired = told["adpo+fdc"]["over_base"].keys() - {"elo"}  # one fit of all models
        assert told[name]["over_reference"].keys() == paired
    assert study.summary[2].startswith("study of 4 models")


def test_edited_stage_code_finds_no_cache_and_other_code_does_not_run_under_its_name(
    first: Outcome, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.code_digest
    monkeypatch.setattr(
        tasks, "code_digest", lambda stage: "edited" if stage == "write_report" else real(stage)
    )
    reason = "write-report failed: write_report: the pipeline was made with code edited, but in "
    with pytest.raises(StageError, match=reason):
        go(workplace, lambda values: None)


def test_a_gate_that_refuses_ends_green_and_unpublished(first: Outcome, workplace: Path) -> None:
    def edit(values: dict[str, Any]) -> None:
        values["name"] = "strict"
        values["write_report"]["gate"] = {"label": "strict", "min_judge_kappa": 0.99}

    refused = go(workplace, edit)
    # A run of another name takes what the two have in common from the cache.
    assert ran(refused) == {"resolve-inputs", "write-report", "publish-model", "record-run"}
    assert not refused.publication["published"]
    assert "min_judge_kappa" in refused.publication["reason"]


def too_strict(values: dict[str, Any]) -> None:
    values["assemble_dataset"] |= {"strict_quotas": True, "quotas": {"EHD": 9999}}


def test_a_failed_task_is_named_with_its_reason(first: Outcome, workplace: Path) -> None:
    with pytest.raises(StageError) as failure:
        go(workplace, too_strict)
    message = str(failure.value)
    assert "assemble-dataset failed: assemble_dataset: quotas cannot be filled" in message
    assert "run.log" in message


def test_changed_input_data_is_noticed_and_a_broken_row_quarantined(
    first: Outcome, workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sample = tmp_path / "sample"
    shutil.copytree(local.SAMPLE, sample)
    lines = (sample / "prompts.jsonl").read_text().splitlines()
    (sample / "prompts.jsonl").write_text("\n".join(["{broken", *lines]) + "\n")
    monkeypatch.setattr(local, "SAMPLE", sample)
    with pytest.raises(StageError):  # what comes after import_data is not at issue here
        go(workplace, too_strict)
    assert read_manifest(artifact(workplace, "import-data", "quarantine")).rows == 1
    log = (workplace / "runs/tiny/run.log").read_text()
    assert "Task import-model cache hit" in log, "new data import no model again"


def test_the_key_every_task_was_given_is_in_no_artifact_log_or_report(
    first: Outcome, workplace: Path
) -> None:
    identities = json.loads((workplace / "runs/object_store/identities.json").read_text())
    secret = identities["identities"][0]["credentials"][0]["secretKey"].encode()
    files = [path for path in (workplace / "runs" / "tiny").rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if secret in path.read_bytes()] == []


def test_files_that_left_an_uploaded_folder_leave_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, record = tmp_path / "mine", tmp_path / "store/uploaded.json"
    source.mkdir()
    for name in ("stays.jsonl", "goes.jsonl"):
        (source / name).write_text("{}")
    with object_store(record.parent) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        create_bucket("s3://data")
        local._mirror(source, "s3://data/mine", record)
        put_if_absent("s3://data/mine/published", b"of a run")
        (source / "goes.jsonl").unlink()
        local._mirror(source, "s3://data/mine", record)
        found = {item.name for item in list_objects("s3://data/mine/")}
    assert found == {"stays.jsonl", "published"}


def test_a_second_run_of_one_name_is_refused_before_it_touches_anything(tmp_path: Path) -> None:
    config = parse_config(tiny_run(tmp_path) | {"name": "twice"}, RunConfig, "tiny run")
    folder = tmp_path / "runs/twice"
    with local._only_run(folder):
        (folder / "run.log").write_text("of the first")
        with pytest.raises(ConfigError, match="another run of this name is going on"):
            run_locally(config, tmp_path / "runs")
    assert (folder / "run.log").read_text() == "of the first"
    with local._only_run(folder):
        pass


def test_a_run_without_news_ends_after_one_task(tmp_path: Path) -> None:
    """The first run fails at a model that is none; what it resolved is then declared completed."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("no model")
    shutil.copytree(local.SAMPLE / "benchmarks", tmp_path / "benchmarks")
    records = tmp_path / "records"
    values = tiny_run(tmp_path / "model")
    values |= {"name": "careful", "local": {}, "resolve_inputs": {"skip_unchanged": True}}
    values["record_run"] = {"destination_uri": str(records)}
    values["publish_model"]["destination_uri"] = str(tmp_path / "models")
    values["score_benchmarks"]["data_uri"] = str(tmp_path / "benchmarks")
    for source in values["import_data"]["sources"]:
        source["uri"] = source["uri"].replace("s3://equilibrate/sample", str(local.SAMPLE))
    config = parse_config(values, RunConfig, "careful run")
    with pytest.raises(StageError, match="import-model failed"):
        run_locally(config, tmp_path / "runs")
    (note,) = (records / "inputs").iterdir()
    (ended,) = (json.loads(path.read_text()) for path in (records / "runs").iterdir())
    assert ended["outcome"] == "failed" and ended["duration_s"] > 0
    assert not (records / "completed").exists()
    (records / "completed").mkdir()
    completed = json.loads(note.read_text()) | {"published": None}
    (records / "completed" / "careful.json").write_text(json.dumps(completed))
    again = run_locally(config, tmp_path / "runs")
    assert ran(again) == {"resolve-inputs", "record-run"}
    assert again.summary == ["nothing new since the last completed run"]
