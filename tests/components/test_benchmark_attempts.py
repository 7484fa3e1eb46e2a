"""A benchmark whose failure may pass is tried again on a new model; the others' scores stay."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from pydantic import ValidationError

from components.score_benchmarks import sandbox
from components.score_benchmarks.stage import score_benchmarks
from tests.components.test_score_benchmarks import SAMPLE, config, read_scores

TWO = ("arc_easy", "winogrande")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def out_of_memory_at(monkeypatch: pytest.MonkeyPatch, *calls: int) -> list[HFLM]:
    """Let the harness's model fail at these calls; gives who was asked, call by call."""
    asked: list[HFLM] = []
    answer = HFLM.loglikelihood

    def loglikelihood(self: HFLM, *arguments: Any, **options: Any) -> Any:
        asked.append(self)
        if len(asked) in calls:
            raise RuntimeError("CUDA error: out of memory")
        return answer(self, *arguments, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", loglikelihood)
    return asked


def count_loads(monkeypatch: pytest.MonkeyPatch, *, failing: int = 0) -> list[None]:
    """A list that grows with every model the harness is given; the one numbered `failing` fails."""
    loads: list[None] = []
    start = HFLM.__init__

    def init(self: HFLM, *arguments: Any, **options: Any) -> None:
        loads.append(None)
        if len(loads) == failing:
            raise RuntimeError("the device is gone")
        start(self, *arguments, **options)

    monkeypatch.setattr(HFLM, "__init__", init)
    return loads


def scored(model: Path, output: Path, **fields: Any) -> dict[str, Any]:
    settings = config(**{"benchmarks": TWO, "items_per_benchmark": 1} | fields)
    score_benchmarks(settings, model=model, benchmark_scores=output)
    return read_scores(output)["tasks"]


def test_a_failure_that_passes_is_tried_again_after_the_others_on_a_new_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scored(tiny_model, tmp_path / "expected")
    asked = out_of_memory_at(monkeypatch, 1)
    tasks = scored(tiny_model, tmp_path / "scores")
    first, second, third = asked
    assert first is second, "winogrande comes next, on the same model"
    assert third is not first
    for each in (*tasks.values(), *expected.values()):
        del each["seconds"]
    assert (list(tasks), tasks) == (list(TWO), expected)


def test_what_still_fails_is_recorded_with_the_way_to_run_it_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = out_of_memory_at(monkeypatch, 1, 3, 4)
    tasks = scored(tiny_model, tmp_path / "scores", attempts=3)
    assert len(asked) == 4
    assert (tasks["winogrande"]["status"], tasks["arc_easy"]["score"]) == ("ok", None)
    assert tasks["arc_easy"]["error"] == (
        "RuntimeError: CUDA error: out of memory (attempts made: 3; raise `attempts` to run this "
        "stage again)"
    )


def test_one_attempt_is_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = out_of_memory_at(monkeypatch, 1)
    tasks = scored(tiny_model, tmp_path / "scores", attempts=1)
    assert (len(asked), tasks["arc_easy"]["status"]) == (2, "failed")
    with pytest.raises(ValidationError):
        config(attempts=0)


def test_missing_data_and_no_sandbox_are_not_tried_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text('import os, sys\nos.write(int(sys.argv[1]), b\'{"refused": "seccomp: no"}\')')
    monkeypatch.setattr(sandbox, "CHILD", child)
    shutil.copytree(SAMPLE / "humaneval", tmp_path / "data" / "humaneval")
    loads = count_loads(monkeypatch)
    names = ("gsm8k", "humaneval")
    tasks = scored(
        tiny_model, tmp_path / "scores", benchmarks=names, data_uri=str(tmp_path / "data")
    )
    assert [tasks[name]["status"] for name in names] == ["failed", "failed"]
    assert "attempts" not in tasks["gsm8k"]["error"] + tasks["humaneval"]["error"]
    assert len(loads) == 1


def test_scores_outlive_a_model_that_cannot_be_loaded_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_at(monkeypatch, 1)
    count_loads(monkeypatch, failing=2)
    tasks = scored(tiny_model, tmp_path / "scores")
    assert tasks["winogrande"]["status"] == "ok"
    for reason in ("out of memory; attempt 2: RuntimeError: the device is gone", "attempts made"):
        assert reason in tasks["arc_easy"]["error"]


def test_a_model_that_never_loads_stops_the_stage(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_loads(monkeypatch, failing=1)
    with pytest.raises(RuntimeError, match="the device is gone"):
        scored(tiny_model, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()
