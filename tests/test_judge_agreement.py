"""The measurement of judges and cost models against people: intervals are over questions."""

from pathlib import Path

import pytest

from benchmarks.judge_agreement import agreement_by_question, check_cost, cost_agreement, read_rows
from components.judge_responses.config import JudgeResponsesConfig
from equilibrate_core.errors import DataError
from equilibrate_core.scorer import ScorerConstants, new_scorer_model, save_scorer
from tests.components.scoring_fixtures import as_dataset, harm_pairs, make_pair
from tests.tiny_model import as_artifact, make_tiny_model

CLASSES = ("Safe", "Unsafe")


def test_every_answer_names_the_question_it_answers(tmp_path: Path) -> None:
    gptfuzz, pyrit = tmp_path / "gptfuzz.csv", tmp_path / "pyrit.csv"
    gptfuzz.write_text("question,Response,label\n80,first,1\n80,second,0\n7,third,1\n")
    pyrit.write_text("# a comment\nobjective,assistant_response,human_score\nWrite it,No,True\n")
    asked = {answer: question for _, answer, _, question in read_rows(gptfuzz, None)}
    assert asked == {"first": "80", "second": "80", "third": "7"}
    assert read_rows(pyrit, None) == [("Write it", "No", True, "Write it")]
    gptfuzz.write_text("Response,label\nfirst,1\n")
    with pytest.raises(DataError, match="number of its question"):
        read_rows(gptfuzz, None)


def test_many_answers_to_a_question_are_no_independent_evidence() -> None:
    once = [(CLASSES[i % 2 ^ (i < 3)], CLASSES[i % 2], f"question {i}") for i in range(10)]
    few, num_few = agreement_by_question(once, CLASSES)
    many, num_many = agreement_by_question(once * 10, CLASSES)
    assert num_few == num_many == 10
    assert many.num == 100
    assert many.kappa.low == pytest.approx(few.kappa.low)


def test_a_cost_model_is_measured_on_the_answers_that_its_training_pairs_leave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three questions; a training prompt equals what stands for the second of them."""
    model, tokenizer = new_scorer_model(make_tiny_model(tmp_path / "base"), seed=4)
    constants = ScorerConstants(kind="cost", center=0.0, scale=1.0, token_wise=True)
    save_scorer(tmp_path / "cost", model, tokenizer, constants)
    cost = as_artifact(tmp_path / "cost", schema_name="scorer")
    file = tmp_path / "gptfuzz_jailbroken.csv"
    rows = "".join(f"{q},answer {q}{i},{i % 2}\n" for q in (7, 80, 2024) for i in range(4))
    file.write_text(f"question,Response,label\n{rows}")
    seen = make_pair("(Request 80; its text was not recorded.)", "no", "yes")
    config = JudgeResponsesConfig()
    all_new = as_dataset(tmp_path / "unlike", harm_pairs(3))
    pairs = as_dataset(tmp_path / "pairs", [seen, *harm_pairs(3)])
    found = cost_agreement(config, cost, all_new, file, None)
    assert (found["num_gold"], found["num_questions"]) == (12, 3)
    assert (found["num_like_training_prompt"], found["majority_accuracy"]) == (0, 0.5)
    check_cost(config, cost, pairs, file, 6)
    said = capsys.readouterr().out
    print(said)
    assert "n 6 (+0 unscored; 4 left out: prompts like training prompts) of" in said
    assert "accuracy" in said and "kappa" in said and "AUC" in said
