"""The measurement of judges against people: intervals are over questions."""

from pathlib import Path

import pytest

from benchmarks.judge_agreement import agreement_by_question, read_rows
from equilibrate_core.errors import DataError

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
