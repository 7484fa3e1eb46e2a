"""The arms of a study in the report: hand-worked figures, pairing, kinship, the page."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from components.gather_arms.config import GatherArmsConfig
from components.gather_arms.stage import gather_arms
from components.write_report.report import StudyArm
from components.write_report.study_figures import pairs_in_words
from equilibrate_core.arms import count_categories, read_arms
from equilibrate_core.artifacts import verify_artifact
from equilibrate_core.errors import ArtifactError, ConfigError, DataError
from tests.components.report_fixtures import CASES, ITEMS, World, add_arms, rows_by_key
from tests.components.scoring_fixtures import as_dataset, make_pair

# Of the fixture: safety base 1/4 and aligned 3/4. "careful" is safe on all four and refuses both
# benign prompts; "lax" is safe on the first alone.
CAREFUL = [
    replace(case, aligned={True: "Safe", False: "Refusal", None: None}[case.is_harmful])
    for case in CASES
]
LAX = [
    replace(case, aligned="Safe" if i == 0 else "Unsafe" if case.is_harmful else case.aligned)
    for i, case in enumerate(CASES)
]
WEAK = {"gsm8k": (0, 0, 0, 0), "mmlu": (1, 1)}
POINTS = [{"size": 0, "arm": "lax"}, {"size": 5, "arm": "own"}, {"size": 9, "arm": "careful"}]
LOST = {("win", "win"): ("loss", "loss"), ("win", "loss"): ("win", "loss")}
STUDY: dict[str, Any] = {
    "reference": "own",
    "curves": [{"category": "EHD", "points": POINTS}],
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, policy_files={"metrics.json": '{"num_steps": 3}'})
    world.trained_on = {"EHD": 5, "IHD": 2}
    world.write()
    return world


def arms_of(world: World, **settings: Any) -> dict[str, Any]:
    add_arms(
        world,
        {
            "lax": {"cases": LAX, "metrics": {"num_steps": 2}, "trained_on": {"IHD": 2}},
            "careful": {
                "cases": CAREFUL,
                "items": {**ITEMS, "aligned": WEAK},
                "trained_on": {"EHD": 8, "IHD": 2},
            },
        },
    )  # fmt: skip
    report = world.report(**{"study": STUDY, **settings})
    return {arm["name"]: arm for arm in report["study"]["arms"]}


def test_clear_differences_are_told_in_words_and_not_by_colour_alone(world: World) -> None:
    world.cases = CASES * 6
    world.write()
    add_arms(world, {"lax": {"cases": LAX * 6}, "careful": {"cases": CAREFUL * 6}})
    world.report(study={"reference": "own"})
    shown = world.page.split('<section id="study"')[1].split("</section>")[0]
    coloured = re.findall(r'<small class="(yes|no)">(.*?)</small>', shown)
    assert {kind for kind, _ in coloured} == {"yes", "no"}
    assert all(text.endswith({"yes": ": better", "no": ": worse"}[k]) for k, text in coloured)
    assert "−50.0 vs own" in shown and "Of safety: Judged by llm / safety;" in shown


def test_every_model_has_its_figures_and_differences(world: World) -> None:
    arms = arms_of(world)
    assert list(arms) == ["base", "lax", "careful", "own"]
    safety = {name: arm["figures"]["safety"]["value"] for name, arm in arms.items()}
    assert safety == {"base": 0.25, "lax": 0.25, "careful": 1.0, "own": 0.75}
    refusal = {name: arm["figures"]["over_refusal"]["value"] for name, arm in arms.items()}
    assert refusal == {"base": 0.0, "lax": 0.5, "careful": 1.0, "own": 0.5}
    average = {name: arm["figures"]["benchmark_average"]["value"] for name, arm in arms.items()}
    assert average == {"base": 0.5, "lax": 0.625, "careful": 0.5, "own": 0.625}
    assert arms["careful"]["over_base"]["safety"]["value"] == 0.75
    assert arms["careful"]["over_reference"]["safety"]["value"] == 0.25
    assert arms["lax"]["over_reference"]["safety"]["value"] == -0.5
    assert arms["own"]["over_base"]["safety"]["value"] == 0.5
    assert arms["own"]["over_reference"] == arms["base"]["over_base"] == {}


def test_differences_are_paired_prompt_by_prompt(world: World) -> None:
    """Lax and base are both safe on one of four prompts, but not on the same one."""
    delta = arms_of(world)["lax"]["over_base"]["safety"]
    assert (delta["value"], delta["gained"], delta["lost"]) == (0.0, 1, 1)
    assert delta["mcnemar_p"] == 1.0


def test_the_main_table_is_what_it_was_without_a_study(world: World) -> None:
    before = rows_by_key(world.report())
    arms = arms_of(world)
    report = json.loads((world.root / "report" / "report.json").read_text())
    assert rows_by_key(report) == before
    for key in ("safety", "truly_safe", "win_rate", "mean_cost", "benchmark_average"):
        assert arms["own"]["figures"][key] == before[key]["aligned"]
        assert arms["own"]["over_base"][key] == before[key]["delta"]


def test_an_arm_equal_to_the_reference_has_no_difference(world: World) -> None:
    add_arms(world, {"twin": {}})
    report = world.report(study={"reference": "own"})
    twin = next(arm for arm in report["study"]["arms"] if arm["name"] == "twin")
    assert {delta["value"] for delta in twin["over_reference"].values()} == {0.0}
    assert "0 of 1 other arms differ clearly from own" in report["study"]["sentence"]
    assert report["study"]["sentence"] in report["summary"]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def elo_of(world: World, arms: dict[str, Any]) -> dict[str, Any]:
    add_arms(world, arms)
    report = world.report(study={"reference": "own"})
    assert [m["key"] for m in report["study"]["measures"]][3:5] == ["win_rate", "elo"]
    return {arm["name"]: arm for arm in report["study"]["arms"]}


def test_all_models_of_a_study_are_rated_in_one_fit(world: World) -> None:
    """Own and twin won 3 of 4 games against the base each, worse 1 of 4.

    One tied game is added between every two. Let own and twin lie at a and worse at b, the base at
    0: what each won is what it should have. Own: 3 + 3 · 1/2 = 5 σ(a) + σ(0) + σ(a - b), worse:
    1 + 3 · 1/2 = 5 σ(b) + 2 σ(b - a).
    """
    worse = [replace(case, preference=case.preference and LOST[case.preference]) for case in CASES]
    arms = elo_of(world, {"twin": {}, "worse": {"cases": worse}})
    elo = {name: arm["figures"]["elo"] for name, arm in arms.items()}
    assert (elo["base"]["value"], elo["base"]["low"]) == (1000, None)
    assert elo["own"]["value"] == pytest.approx(elo["twin"]["value"])
    a, b = ((elo[name]["value"] - 1000) * math.log(10) / 400 for name in ("own", "worse"))
    assert 5 * sigma(a) + 0.5 + sigma(a - b) == pytest.approx(4.5, abs=1e-6)
    assert 5 * sigma(b) + 2 * sigma(b - a) == pytest.approx(2.5, abs=1e-6)
    assert elo["own"]["low"] < elo["own"]["value"] < elo["own"]["high"]
    assert {figure["num_scored"] for figure in elo.values()} == {2}, "prompts, not games"
    assert arms["worse"]["over_base"]["elo"]["value"] == elo["worse"]["value"] - 1000
    assert "elo" not in arms["base"]["over_base"]
    assert world.metrics["arm_worse_elo"] == elo["worse"]["value"]
    assert "Helpfulness rating (Elo)" in world.page.split('<section id="study"')[1]


def test_equal_models_are_rated_by_what_they_won_of_the_base(world: World) -> None:
    """Ties between equals move nothing: 3.5 of 5 games won are odds of 7 to 3."""
    for arm in list(elo_of(world, {"twin": {}}).values())[1:]:
        assert arm["figures"]["elo"]["value"] == pytest.approx(1000 + 400 * math.log10(7 / 3))


def test_an_arm_that_was_not_compared_is_not_rated_and_hides_nobody_elses(world: World) -> None:
    silent = [replace(case, preference=case.preference and (None, None)) for case in CASES]
    arms = elo_of(world, {"twin": {}, "silent": {"cases": silent}})
    rated = {name for name, arm in arms.items() if "elo" in arm["figures"]}
    assert rated == {"base", "twin", "own"}


def test_curves_stand_at_the_number_of_pairs_trained_on(world: World) -> None:
    arms_of(world)
    report = json.loads((world.root / "report" / "report.json").read_text())
    (curve,) = report["study"]["curves"]
    assert [point["size"] for point in curve["points"]] == [0, 5, 9]
    # Nine were asked for, but one was too long for the model.
    assert [point["num_pairs"] for point in curve["points"]] == [0, 5, 8]
    assert "8 pairs" in world.page


def test_an_arm_without_benchmarks_is_not_measured_and_hides_nobody_elses(world: World) -> None:
    add_arms(world, {"quick": {"benchmarked": False}})
    report = world.report(study={"reference": "own"})
    arms = {arm["name"]: arm for arm in report["study"]["arms"]}
    assert "benchmark_average" not in arms["quick"]["figures"]
    assert arms["own"]["figures"]["benchmark_average"]["value"] == 0.625
    assert "not measured" in world.page


def test_the_report_with_a_study_satisfies_the_published_schema(world: World) -> None:
    arms_of(world)
    report = json.loads((world.root / "report" / "report.json").read_text())
    published = Path(__file__).parents[2] / "docs" / "report.schema.json"
    Draft202012Validator(json.loads(published.read_text())).validate(report)
    assert report["report_version"] == 6


def test_figures_of_arms_become_flat_metrics(world: World) -> None:
    arms_of(world)
    assert world.metrics["arm_careful_safety"] == 1.0
    assert world.metrics["arm_lax_over_refusal"] == 0.5


def test_the_page_has_one_table_of_all_models_and_a_figure_a_curve(world: World) -> None:
    arms_of(world)
    section = world.page.split('<section id="study"')[1].split("</section>")[0]
    rows = section.split("<tbody>")[1].split("</tbody>")[0].split("<tr")[1:]
    assert len(rows) == 4
    assert "100.0 %" in rows[2] and "+75.0 vs base" in rows[2] and "+25.0 vs own" in rows[2]
    assert section.count("<svg") == 1 and "EHD pairs trained on" in section
    assert "more rows also mean more training" in section
    assert 'href="#study"' in world.page


def test_a_report_without_a_study_has_no_such_section(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.run()["study"] is None
    assert 'id="study"' not in world.page and 'href="#study"' not in world.page


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"reference": "lax"}, "two arms are called 'lax'"),
        (
            {**STUDY, "curves": [{"category": "EHD", "points": [{"size": 1, "arm": "x"}]}]},
            "name the arm 'x', which is not among base, lax, careful, own",
        ),
    ],
)  # fmt: skip
def test_a_view_of_another_study_is_refused(world: World, study: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arms_of(world, study=study)


@pytest.mark.parametrize(
    ("artifact", "argument", "what"),
    [
        ("aligned_generations", "prompts", "prompts"),
        ("aligned_verdicts", "other_generations", "base answers"),
        ("aligned_verdicts", "judge_model", "judge model"),
        ("aligned_verdicts", "cost_model", "cost model"),
        ("policy", "base_model", "base model"),
    ],
)
def test_an_arm_of_another_run_is_refused(
    tmp_path: Path, artifact: str, argument: str, what: str
) -> None:
    named = {"policy": {"base_model": "base-digest"}}
    world = World(tmp_path, policy_files={"metrics.json": "{}"}, inputs=named)
    world.write()
    other = {**named, artifact: {**named.get(artifact, {}), argument: "f" * 64}}
    add_arms(world, {"stranger": {"inputs": other}})
    with pytest.raises(DataError, match=f"arm stranger: its {what} is ffffffffffff"):
        world.report()


def gather(world: World, name: str, arms: Path, **inputs: Path) -> dict[str, float]:
    given = {n: world.paths[n] for n in ("train_pairs", "scored_pairs", "policy")}
    given |= {n: world.paths[f"aligned_{n}"] for n in ("generations", "verdicts", "benchmarks")}
    return gather_arms(GatherArmsConfig(name=name), **{**given, **inputs}, arms=arms)


def test_gathering_keeps_arms_in_order_and_seals_them(world: World, tmp_path: Path) -> None:
    gather(world, "b", tmp_path / "one")
    metrics = gather(world, "a", tmp_path / "two", earlier_arms=tmp_path / "one")
    assert [folder.facts.name for folder in read_arms(tmp_path / "two")] == ["b", "a"]
    assert metrics["num_arms"] == 2
    verify_artifact(tmp_path / "two", "arms")
    for part in ("generations", "verdicts", "benchmarks"):
        verify_artifact(tmp_path / "two" / "000" / part)
    with pytest.raises(ConfigError, match=r"arm 'b' is there already, among \['b', 'a'\]"):
        gather(world, "b", tmp_path / "three", earlier_arms=tmp_path / "two")


@pytest.mark.parametrize(
    ("argument", "other"),
    [
        ("policy", "base_generations"),
        ("generations", "base_generations"),
        ("verdicts", "base_verdicts"),
        ("benchmarks", "base_benchmarks"),
    ],
)
def test_artifacts_of_two_arms_are_not_gathered_as_one(
    world: World, tmp_path: Path, argument: str, other: str
) -> None:
    with pytest.raises(ArtifactError, match="give artifacts of one and the same arm"):
        gather(world, "mixed", tmp_path / "arms", **{argument: world.paths[other]})


def test_a_broken_arm_is_named(tmp_path: Path) -> None:
    (tmp_path / "arms" / "000").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"000/arm.json: unreadable"):
        read_arms(tmp_path / "arms")


def test_pairs_are_counted_by_category(tmp_path: Path) -> None:
    labels = ["EHD", "EHD", "NONE"]
    rows = [
        make_pair(f"Q{i}?", "no", "yes", **({"category": label} if label else {}))
        for i, label in enumerate([*labels, None])
    ]
    found = count_categories(as_dataset(tmp_path / "pairs", rows))
    assert found == {"EHD": 2, "NONE": 1, "unlabelled": 1}
    arm = StudyArm(name="x", figures={}, pairs=found, num_steps=3)
    assert pairs_in_words(arm) == "4 pairs (EHD 2, NONE 1, unlabelled 1), 3 steps"
