"""Studies: what is planned, what is shared, what is refused in one line."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from equilibrate_core.config import parse_config
from equilibrate_core.errors import ConfigError
from pipelines.alignment import alignment_pipeline
from pipelines.local import task_titles
from pipelines.run_config import RunConfig, load_run
from pipelines.sections import sections
from pipelines.study import Plan
from pipelines.submit import compile_run

CONFIGS = Path(__file__).parents[2] / "pipelines" / "configs"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def config(study: dict[str, Any], **changes: Any) -> RunConfig:
    values = yaml.safe_load((CONFIGS / "laptop.yaml").read_text())
    for section, change in changes.items():
        values[section] = values.get(section, {}) | change
    return parse_config(values | {"study": study}, RunConfig, "run.yaml")


def plan(study: dict[str, Any], **changes: Any) -> Plan:
    found = config(study, **changes).plan
    assert found is not None
    return found


def graph(run: RunConfig) -> dict[str, Any]:
    """Tasks inside the exit handler, by name, of the pipeline as the local runner takes it."""
    components = alignment_pipeline(run).pipeline_spec.components
    (found,) = [c for name, c in components.items() if name.startswith("comp-exit-handler")]
    return dict(found.dag.tasks)


@cache
def ablation() -> dict[str, Any]:
    return graph(load_run(CONFIGS / "ablation.yaml"))


def number(tasks: dict[str, Any], stage: str) -> int:
    return sum(name.rstrip("-0123456789") == stage for name in tasks)


def test_the_ablation_has_the_arms_reviewers_asked_for() -> None:
    run = load_run(CONFIGS / "ablation.yaml")
    assert run.plan is not None
    arms = {arm.name: arm for arm in (*run.plan.arms, run.plan.own)}
    expected = {
        "dpo+all": ("all", "dpo"),
        "dpo+random": ("random", "dpo"),
        "dpo+fdc": ("fdc", "dpo"),
        "adpo+random": ("random", "adpo"),
        "adpo+fdc": ("fdc", "adpo"),
        "random-mask+fdc": ("fdc", "random_mask"),
    }
    assert {n: (a.dataset.selection, a.training.loss) for n, a in arms.items()} == expected
    assert run.plan.view.reference == "adpo+fdc"
    same = {arm.training.model_copy(update={"loss": "adpo"}) for arm in arms.values()}
    assert len(same) == 1, "arms differ in their loss and in nothing else of their training"


def test_what_does_not_depend_on_the_arm_is_there_once() -> None:
    tasks = ablation()
    once = {"import-data": 1, "import-model": 1, "classify-prompts": 1, "train-scorer": 3}
    assert {stage: number(tasks, stage) for stage in once} == once
    # fdc, all, random: arms with the same data share it
    assert number(tasks, "assemble-dataset") == number(tasks, "score-tokens") == 3
    assert number(tasks, "train-policy") == 6 and number(tasks, "gather-arms") == 5
    for stage in ("generate-responses", "judge-responses", "score-benchmarks"):
        assert number(tasks, stage) == 7, "base and six policies"
    checked = [n for n, t in tasks.items() if "labelled_pairs" in t.inputs.artifacts]
    assert len(checked) == 1


def test_a_person_sees_which_arm_a_task_belongs_to() -> None:
    titles = task_titles(alignment_pipeline(load_run(CONFIGS / "ablation.yaml")))
    assert titles["train-policy-2"] == "Train policy dpo+all"
    assert titles["train-scorer"] == "Train reward model"
    assert "import-data" not in titles


def test_every_gathering_hands_on_to_the_next_and_the_last_to_the_report() -> None:
    tasks = ablation()
    at, order = "write-report", []
    argument = "arms"
    while argument in tasks[at].inputs.artifacts:
        at = tasks[at].inputs.artifacts[argument].task_output_artifact.producer_task
        order.append(tasks[at].task_info.name)
        argument = "earlier_arms"
    assert order == [
        f"12 Gather arm {name}"
        for name in ("random-mask+fdc", "adpo+random", "dpo+fdc", "dpo+random", "dpo+all")
    ]


def test_no_scorer_is_trained_before_every_arm_has_its_data() -> None:
    tasks = graph(load_run(CONFIGS / "scaling.yaml"))
    datasets = {name for name in tasks if name.startswith("assemble-dataset")}
    assert len(datasets) == 7
    for name, task in tasks.items():
        if name.startswith("train-scorer"):
            assert datasets <= set(task.dependent_tasks)


def test_every_arms_data_and_training_are_parameters_on_a_cluster() -> None:
    run = load_run(CONFIGS / "ablation.yaml")
    compiled = compile_run(run)
    mine = {name for name in compiled.parameter_types if name.startswith("arm_")}
    arms = ("dpo_all", "dpo_random", "dpo_fdc", "adpo_random", "random_mask_fdc")
    expected = {f"arm_{arm}_train_config" for arm in arms}
    expected |= {f"arm_{arm}_assemble_config" for arm in ("dpo_all", "dpo_random")}
    assert mine == expected
    assert "gather_arms_memory" in compiled.parameter_types
    assert not any("arm" in name for name in sections(load_run(CONFIGS / "laptop.yaml")))


def test_a_curve_varies_one_category_and_shares_the_point_that_is_the_run() -> None:
    run = load_run(CONFIGS / "scaling.yaml")
    assert run.plan is not None
    for curve in run.plan.view.curves:
        assert [point.size for point in curve.points] == [0, 5, 10]
        assert curve.points[1].arm == "five-each"
    quotas = {arm.name: arm.dataset.quotas.model_dump() for arm in run.plan.arms}
    assert quotas["IHD=10"] == {"EHD": 5, "IHD": 10, "MHD": 5}
    assert len(quotas) == 6
    assert {arm.training for arm in run.plan.arms} == {run.train_policy}


def test_a_point_that_an_arm_has_already_is_not_trained_again() -> None:
    study = {
        "reference": "own",
        "arms": [{"name": "more", "quotas": {"EHD": 9, "IHD": 5, "MHD": 5}}],
        "scaling": [{"category": "EHD", "sizes": [5, 9]}],
    }
    found = plan(study, assemble_dataset={"strict_quotas": True})
    assert [arm.name for arm in found.arms] == ["more"]
    assert [point.arm for point in found.view.curves[0].points] == ["own", "more"]


def test_another_seed_is_another_arm_on_the_same_data() -> None:
    found = plan({"reference": "own", "arms": [{"name": "own-again", "seed": 7}]})
    (arm,) = found.arms
    assert arm.training.seed == 7 and found.new_data == ()


def test_arms_need_not_be_benchmarked() -> None:
    study = {"reference": "own", "arms": [{"name": "dpo", "loss": "dpo"}], "benchmarks": False}
    tasks = graph(config(study))
    assert number(tasks, "score-benchmarks") == 2
    assert "benchmarks" not in tasks["gather-arms"].inputs.artifacts


DPO = {"name": "dpo", "loss": "dpo"}
CURVE = {"category": "EHD", "sizes": [0, 10]}


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"arms": [DPO]}, "study.reference: required field is missing"),
        ({"arms": [DPO, DPO]}, "two arms are called 'dpo' and 'dpo'"),
        ({"arms": [DPO, {"name": "DPO", "loss": "adpo"}]}, "two arms are called 'dpo' and 'DPO'"),
        ({"arms": [{"name": "x", "selection": "best"}]}, "should be 'fdc', 'random' or 'all'"),
        ({"arms": [{"name": "x", "los": "dpo"}]}, "study.arms.0.los: unknown field"),
        ({"arms": [{"name": "Base", "loss": "dpo"}]}, "an arm cannot be called 'Base'"),
        ({"arms": [{"name": "a/b", "loss": "dpo"}]}, "study.arms.0.name: String should match"),
        (
            {"arms": [DPO, {"name": "same", "loss": "dpo"}]},
            "'dpo' and 'same' are the same training",
        ),
        ({"arms": [{"name": "own", "loss": "dpo"}]}, "the reference 'own' must be the run's own"),
        ({"arms": [{"name": "other"}]}, "arm 'other' is the run's own policy under another name"),
        ({"arms": [{"name": "own"}]}, "nothing to compare"),
        ({"scaling": [CURVE]}, "study.scaling needs assemble_dataset.strict_quotas: true"),
        ({"scaling": [CURVE, CURVE]}, "a category has one curve"),
        ({"scaling": [{"category": "EHD", "sizes": [5, 5]}]}, "sizes must rise, each once"),
        ({"scaling": [{"category": "EHD", "sizes": [5]}]}, "at least 2 items"),
        ({"scaling": [{"category": "NONE", "sizes": [0, 5]}]}, "should be 'EHD', 'IHD' or 'MHD'"),
    ],
)
def test_mistakes_are_one_clear_line(study: dict[str, Any], message: str) -> None:
    named = study if "required" in message else {"reference": "own", **study}
    with pytest.raises(ConfigError) as error:
        config(named)
    assert message in str(error.value)
    assert str(error.value).startswith("run.yaml: ") and "\n" not in str(error.value)


def test_general_data_must_not_change_along_a_curve() -> None:
    with pytest.raises(ConfigError, match="a general_count"):
        config(
            {"reference": "own", "scaling": [CURVE]},
            assemble_dataset={"strict_quotas": True, "general_count": None},
        )


def test_built_pairs_would_change_every_arms_size() -> None:
    with pytest.raises(ConfigError, match="remove one of the two sections"):
        config({"reference": "own", "arms": [DPO]}, build_pairs={"num_samples": 4})
