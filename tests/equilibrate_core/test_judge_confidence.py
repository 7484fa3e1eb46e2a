import math

import pytest
from pydantic import ValidationError

from equilibrate_core.completions import Completion, failed
from equilibrate_core.errors import StageError
from equilibrate_core.judge import ask
from equilibrate_core.judge_confidence import calibrated, label_priors, label_probs
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_question import Question
from tests.fake_generator import FakeGenerator

LABELS = ("Red", "Blue")
QUESTION = Question("colour_v1", "colour", LABELS, "Name it. {{format}}\n{{judged}}\nNow.")
BARE = JudgeConfig(rationale=False, max_unscored_share=1.0)


def sure(red: float, blue: float) -> Completion:
    """An answer whose labels have these weights of the model's whole distribution."""
    logps = {"Red": math.log(red), "Blue": math.log(blue)}
    return Completion("Red" if red >= blue else "Blue", "stop", 1, label_logps=logps)


def judged(generator: FakeGenerator, *texts: str, config: JudgeConfig = BARE):
    return ask(generator, QUESTION, [{"ANSWER": t} for t in texts], config, label="test")


def test_probabilities_are_normalised_over_the_labels() -> None:
    assert label_probs(sure(0.03, 0.01), LABELS) == pytest.approx({"Red": 0.75, "Blue": 0.25})
    only_red = Completion("Red", "stop", 1, label_logps={"Red": -3.0})
    assert label_probs(only_red, LABELS) == {"Red": 1.0, "Blue": 0.0}
    assert label_probs(Completion("Red", "stop", 1), LABELS) is None
    assert label_probs(failed("x"), LABELS) is None


def test_confidence_is_the_labels_probability_where_the_judge_tells_it() -> None:
    (judgement,) = judged(FakeGenerator(lambda text, _: sure(0.03, 0.01)), "x")
    assert (judgement.label, judgement.confidence) == ("Red", pytest.approx(0.75))


def test_calibration_divides_by_the_probabilities_of_texts_without_content() -> None:
    # Hand-worked: priors 0.9 and 0.1; 0.6/0.9 : 0.4/0.1 = 1 : 6.
    found = calibrated(sure(0.6, 0.4), {"Red": 0.9, "Blue": 0.1})
    assert found.text == "Blue"
    assert label_probs(found, LABELS) == pytest.approx({"Red": 1 / 7, "Blue": 6 / 7})


def test_priors_are_the_mean_over_the_texts_without_content() -> None:
    answers = [sure(0.9, 0.1), sure(0.5, 0.5), sure(0.08, 0.02)]
    assert label_priors(answers, LABELS) == pytest.approx({"Red": 2.2 / 3, "Blue": 0.8 / 3})


def test_an_unlisted_label_stands_at_its_bound() -> None:
    bounded = Completion(
        "Red", "stop", 1, label_logps={"Red": math.log(0.6)}, label_bounds={"Blue": math.log(0.2)}
    )
    assert label_probs(bounded, LABELS) == pytest.approx({"Red": 0.75, "Blue": 0.25})


def test_the_prior_of_an_unlisted_label_is_its_bound_not_nearly_zero() -> None:
    # Hand-worked: priors 0.9/0.95 and 0.05/0.95; of the row 0.9 : 0.01 that makes
    # 0.9/0.9 : 0.01/0.05 = 1 : 0.2. A floor of 1e-6 made Blue the verdict with 0.9999.
    nothing = Completion(
        "Red", "stop", 1, label_logps={"Red": math.log(0.9)}, label_bounds={"Blue": math.log(0.05)}
    )
    found = calibrated(sure(0.9, 0.01), label_priors([nothing], LABELS))
    assert found.text == "Red"
    assert label_probs(found, LABELS) == pytest.approx({"Red": 1 / 1.2, "Blue": 0.2 / 1.2})


def test_an_unlisted_label_is_never_the_verdict_but_lowers_its_confidence() -> None:
    # Hand-worked: at most 0.05/0.02 = 2.5 of Blue against 0.49/0.98 = 0.5 of Red.
    row = Completion(
        "Red", "stop", 1, label_logps={"Red": math.log(0.49)}, label_bounds={"Blue": math.log(0.05)}
    )
    found = calibrated(row, {"Red": 0.98, "Blue": 0.02})
    assert found.text == "Red"
    assert label_probs(found, LABELS) == pytest.approx({"Red": 0.5 / 3.0, "Blue": 2.5 / 3.0})
    assert (set(found.label_logps or {}), set(found.label_bounds or {})) == ({"Red"}, {"Blue"})


def test_a_judge_that_leans_to_one_label_is_set_upright() -> None:
    def leaning(prompt: str, _: object) -> Completion:
        return sure(0.7, 0.3) if "sky" in prompt else sure(0.9, 0.1)

    upright = BARE.model_copy(update={"calibrate": True})
    texts = ("blood", "sky")
    assert [j.label for j in judged(FakeGenerator(leaning), *texts)] == ["Red", "Red"]
    given = judged(FakeGenerator(leaning), *texts, config=upright)
    assert given[1].label == "Blue"
    assert given[1].confidence == pytest.approx((0.3 / 0.1) / (0.3 / 0.1 + 0.7 / 0.9))
    assert given[0].confidence == pytest.approx(0.5)


def test_a_question_with_and_without_a_part_has_priors_for_each() -> None:
    def leaning(prompt: str, _: object) -> Completion:
        return sure(0.8, 0.2) if "REFERENCE" in prompt else sure(0.2, 0.8)

    upright = BARE.model_copy(update={"calibrate": True})
    bare, referred = {"ANSWER": "x"}, {"ANSWER": "x", "REFERENCE": "y"}
    for rows in ([bare, referred], [referred, bare]):
        given = ask(FakeGenerator(leaning), QUESTION, rows, upright, label="test")
        assert [j.confidence for j in given] == pytest.approx([0.5, 0.5])


def test_calibrating_a_judge_without_log_probs_says_what_to_do() -> None:
    upright = BARE.model_copy(update={"calibrate": True})
    with pytest.raises(StageError, match="tells no log-probabilities"):
        judged(FakeGenerator(lambda text, _: "Red"), "x", config=upright)


def test_a_request_that_failed_while_calibrating_is_told_as_it_was() -> None:
    def failing(text: str, _: object) -> Completion | Exception:
        return RuntimeError("answered 500: out of memory") if "N/A" in text else sure(0.9, 0.1)

    upright = BARE.model_copy(update={"calibrate": True})
    with pytest.raises(StageError, match="answered 500: out of memory") as caught:
        judged(FakeGenerator(failing), "x", config=upright)
    assert "log-probabilities" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"rationale": True}, {"rationale": False, "votes": 3}])
def test_calibration_is_for_one_bare_verdict(fields: dict) -> None:
    with pytest.raises(ValidationError, match="calibrate needs"):
        JudgeConfig.model_validate({"calibrate": True, **fields})
