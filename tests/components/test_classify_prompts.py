import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import dsl
from pydantic import ValidationError

from components.classify_prompts import panel, stage
from components.classify_prompts.config import ClassifyPromptsConfig
from components.classify_prompts.panel import QUESTIONS
from components.classify_prompts.stage import classify_prompts
from equilibrate_core.artifacts import Counts, StageRun, read_manifest
from equilibrate_core.errors import ArtifactError, StageError
from equilibrate_core.launch import log_confusion_matrix
from equilibrate_core.records import (
    CATEGORIES,
    LabelledPrompt,
    Message,
    Prompt,
    digest,
    prompt_id,
)
from equilibrate_core.stage import stage_main
from equilibrate_core.tables import read_dataset, write_dataset
from tests.chat_server import chat_server, first_allowed
from tests.fake_generator import FakeGenerator, opener
from tests.tiny_model import as_artifact, make_tiny_model

GOLD = {"alpha": "EHD", "beta": "EHD", "gamma": "IHD", "delta": "MHD", "epsilon": None}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = []
    for text, gold in GOLD.items():
        messages = (Message(role="user", content=text),)
        rows.append(
            Prompt(id=prompt_id(messages), messages=messages, source="t", gold_category=gold)
        )
    run = StageRun(stage="import_data", config={}, seed=0, code_version="x", inputs={})
    counts = Counts(read=7, kept=5, quarantined=2)
    write_dataset(run, tmp_path / "prompts", Prompt, rows, counts=counts)
    return tmp_path / "prompts"


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_artifact(
        make_tiny_model(tmp_path_factory.mktemp("model") / "judge", max_positions=4096)
    )


@pytest.fixture
def classify(prompts: Path, judge_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda: "not here")

    def run(answers: dict[str, str], **config: object):
        def answer(text: str, _: object) -> str | Exception:
            name = next(name for name in GOLD if name in text.rsplit("<<<REQUEST", 1)[1])
            category = answers.get(name)
            if category is None:
                return RuntimeError(f"no answer for {name}")
            return json.dumps({"rationale": f"about {name}", "category": category})

        generator = FakeGenerator(answer)
        monkeypatch.setattr(panel, "open_generator", opener(generator))
        settings = ClassifyPromptsConfig.model_validate(config)
        out = prompts.parent / "labelled"
        metrics = classify_prompts(
            settings, prompts=prompts, judge_model=judge_model, labelled_prompts=out
        )
        rows = {row.messages[0].content: row for row in read_dataset(out, LabelledPrompt)}
        return metrics, rows, out

    return run


RIGHT = {"alpha": "EHD", "beta": "IHD", "gamma": "IHD", "delta": "MHD", "epsilon": "NONE"}


def test_labels_tell_what_auto_came_to(classify: Callable) -> None:
    served = {"backend": "endpoint", "endpoint_url": "http://j/v1", "endpoint_model": "j"}
    _, _, out = classify(RIGHT, judge={"dtype": "float32"}, other_judges=[served])
    assert read_manifest(out).resolved == {
        "judge.backend": "transformers",
        "judge.dtype": "float32",
        "other_judges.0.backend": "endpoint",
    }


def test_every_prompt_gets_its_label_rationale_and_judge(classify: Callable) -> None:
    _, rows, _ = classify(RIGHT)
    assert {text: row.category for text, row in rows.items()} == RIGHT
    assert rows["alpha"].rationale == "about alpha"
    assert rows["alpha"].votes == {"EHD": 1}
    assert rows["alpha"].confidence is None
    assert rows["alpha"].gold_category == "EHD"
    assert rows["alpha"].judge.endswith(" / category_v1")


def test_agreement_with_gold_is_measured_with_its_matrix(classify: Callable) -> None:
    metrics, _, out = classify(RIGHT)
    assert metrics["accuracy"] == 0.75
    assert metrics["accuracy_low"] <= 0.75 <= metrics["accuracy_high"]
    assert {"kappa", "kappa_low", "kappa_high", "macro_f1_low", "macro_f1_high"} <= set(metrics)
    assert (metrics["num_gold"], metrics["num_scored"], metrics["share_IHD"]) == (4, 5, 0.4)
    table = json.loads((out / "agreement.json").read_text())
    assert table["labels"] == list(CATEGORIES)
    assert table["matrix"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert table["majority_accuracy"] == 0.5
    assert json.loads((out / "metrics.json").read_text()) == metrics


def test_a_row_the_judge_failed_on_stays_unscored_and_is_kept(classify: Callable) -> None:
    answers = {name: label for name, label in RIGHT.items() if name != "alpha"}
    metrics, rows, out = classify(answers, max_unscored_share=0.2)
    assert (rows["alpha"].category, rows["alpha"].status) == (None, "unscored")
    assert rows["alpha"].error == "no answer for alpha"
    assert (metrics["num_unscored"], metrics["unscored_share"]) == (1, 0.2)
    assert (metrics["num_gold"], metrics["num_gold_scored"]) == (4, 3)
    assert metrics["num_gold_unscored"] == 1
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    counts = read_manifest(out).counts
    assert counts is not None
    assert (counts.read, counts.kept) == (5, 5)


def test_an_unscored_row_without_a_gold_label_is_no_missing_gold_row(classify: Callable) -> None:
    (unlabelled,) = [name for name, gold in GOLD.items() if gold is None]
    answers = {name: label for name, label in RIGHT.items() if name != unlabelled}
    metrics, _, _ = classify(answers, max_unscored_share=0.2)
    assert (metrics["num_unscored"], metrics["num_gold_unscored"]) == (1, 0)


def test_too_many_unscored_rows_leave_no_artifact(classify: Callable, prompts: Path) -> None:
    with pytest.raises(StageError, match="1 of 5 rows are unscored"):
        classify({n: c for n, c in RIGHT.items() if n not in ("alpha", "beta")})
    assert not (prompts.parent / "labelled").exists()


def test_three_votes_give_confidence(classify: Callable) -> None:
    _, rows, _ = classify(RIGHT, votes=3)
    assert rows["beta"].votes == {"IHD": 3}
    assert rows["beta"].confidence == 1.0


def test_without_gold_labels_there_is_no_agreement(
    classify: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "gold_agreement", lambda labelled, seed: None)
    metrics, _, out = classify(RIGHT)
    assert "accuracy" not in metrics
    assert json.loads((out / "agreement.json").read_text())["matrix"] is None


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_prompt_file_defines_each_category_with_examples_in_both_languages(name: str) -> None:
    template = QUESTIONS[name].template
    for category in CATEGORIES:
        assert f"- {category}: " in template
        shown = [x.split(" -> ")[0] for x in template.splitlines() if f" -> {category}:" in x]
        assert any(line.isascii() for line in shown)
        assert any(not line.isascii() for line in shown)
    assert "{{judged}}" in template[-200:]


def test_the_config_chooses_the_prompt_file_and_records_name_it(classify: Callable) -> None:
    _, rows, _ = classify(RIGHT, prompt="category_zh_v1")
    assert rows["alpha"].judge.endswith(" / category_zh_v1")


@pytest.mark.parametrize("rationale", [True, False])
def test_a_real_model_labels_every_row_from_the_command_line(
    prompts: Path, judge_model: Path, rationale: bool, tmp_path: Path
) -> None:
    judge = {"backend": "transformers", "dtype": "float32", "max_model_len": 4096}
    config = {
        "judge": judge, "rationale": rationale, "rationale_chars": 20, "max_tokens": 120,
    }  # fmt: skip
    out = tmp_path / "out"
    arguments = [
        "--config", json.dumps(config), "--prompts", str(prompts),
        "--judge_model", str(judge_model), "--labelled_prompts", str(out),
    ]  # fmt: skip
    assert stage_main(classify_prompts, ClassifyPromptsConfig, arguments) == 0
    rows = read_dataset(out, LabelledPrompt)
    assert all(row.category in CATEGORIES and row.status == "scored" for row in rows)
    assert [row.messages[0].content for row in rows] == list(GOLD)


def test_an_endpoint_labels_every_row(
    prompts: Path, judge_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    with chat_server() as server:
        judge = {
            "backend": "endpoint", "endpoint_url": server.url, "endpoint_model": "judge",
            "api_key_env": "JUDGE_KEY",
        }  # fmt: skip
        config = ClassifyPromptsConfig.model_validate({"judge": judge})
        out = tmp_path / "out"
        classify_prompts(config, prompts=prompts, judge_model=judge_model, labelled_prompts=out)
    rows = read_dataset(out, LabelledPrompt)
    assert {(row.category, row.judge) for row in rows} == {("EHD", "judge / category_v1")}
    assert "secret-key" not in (out / "manifest.json").read_text()


def test_another_kind_of_dataset_is_refused(judge_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds 'model'"):
        classify_prompts(
            ClassifyPromptsConfig(),
            prompts=judge_model, judge_model=judge_model, labelled_prompts=tmp_path / "out",
        )  # fmt: skip


def test_a_killed_run_asks_nothing_twice(prompts: Path, judge_model: Path, tmp_path: Path) -> None:
    out, ledger = tmp_path / "out", tmp_path / ".out.progress" / "answers.jsonl"
    answered = threading.Semaphore(2)

    def answer_twice_then_hang(body: dict) -> str:
        if not answered.acquire(blocking=False):
            released.wait(30)
        return first_allowed(body)

    released = threading.Event()
    with chat_server(key=None, answer=answer_twice_then_hang) as server:
        judge = {
            "backend": "endpoint", "endpoint_url": server.url, "endpoint_model": "judge",
            "concurrency": 1,
        }  # fmt: skip
        arguments = [
            sys.executable, "-m", "components.classify_prompts.stage",
            "--config", json.dumps({"judge": judge}), "--prompts", str(prompts),
            "--judge_model", str(judge_model), "--labelled_prompts", str(out),
        ]  # fmt: skip
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            # The third request hangs: two answers are in, and no other can come.
            while len(server.bodies) < 3:
                assert child.poll() is None, "the stage ended by itself"
                assert time.monotonic() < deadline, "the stage asked for less than three answers"
                time.sleep(0.02)
        finally:
            child.kill()
            child.wait()
        assert not out.exists()
        assert len(ledger.read_text().splitlines()) == 2
        first = [body["messages"][0]["content"] for body in server.bodies]
        server.bodies.clear()
        server.answer = first_allowed
        released.set()
        assert subprocess.run(arguments, check=False, stdout=subprocess.DEVNULL).returncode == 0
        second = [body["messages"][0]["content"] for body in server.bodies]
    # Only the request that was never answered is sent again.
    assert (len(first), len(second)) == (3, 3)
    assert set(first) & set(second) == {first[2]}
    assert len(set(first) | set(second)) == len(GOLD)
    assert len(read_dataset(out, LabelledPrompt)) == len(GOLD)
    assert not ledger.parent.exists()


def test_what_another_backend_answered_before_a_restart_is_asked_anew(
    classify: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled: list[tuple[str, int]] = []
    poll = panel.poll

    def seen(generator: FakeGenerator, question: Any, rows: Any, config: Any, **named: Any) -> Any:
        ballots = poll(generator, question, rows, config, **named)
        polled.append((config.judge.backend, len(generator.asked)))
        return ballots

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(panel, "poll", seen)
    monkeypatch.setattr(stage, "_write", full)  # the attempt dies with all verdicts kept
    for problem in ("vllm is not here", None, "vllm is gone again"):
        monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda p=problem: p)
        with pytest.raises(OSError, match="disk full"):
            classify(RIGHT, progress_dir=str(tmp_path / "volume"))
    assert polled == [("transformers", 5), ("vllm", 5), ("transformers", 0)]


def test_several_judges_pool_their_votes(prompts: Path, judge_model: Path, tmp_path: Path) -> None:
    def always(category: str) -> Callable[[dict], str]:
        return lambda body: json.dumps({"rationale": "r", "category": category})

    with (
        chat_server(key=None, model="one", answer=always("EHD")) as one,
        chat_server(key=None, model="two", answer=always("MHD")) as two,
        chat_server(key=None, model="three", answer=always("MHD")) as three,
    ):
        first, *others = (
            {"backend": "endpoint", "endpoint_url": server.url, "endpoint_model": server.model}
            for server in (one, two, three)
        )
        config = ClassifyPromptsConfig.model_validate({"judge": first, "other_judges": others})
        out = tmp_path / "out"
        classify_prompts(config, prompts=prompts, judge_model=judge_model, labelled_prompts=out)
    rows = read_dataset(out, LabelledPrompt)
    assert {row.category for row in rows} == {"MHD"}
    assert rows[0].votes == {"EHD": 1, "MHD": 2}
    assert rows[0].confidence == pytest.approx(2 / 3)
    assert rows[0].judge == "one + two + three / category_v1"


def test_a_judge_of_a_panel_that_never_answers_is_named(
    prompts: Path, judge_model: Path, tmp_path: Path
) -> None:
    with (
        chat_server(key=None, model="one") as one,
        chat_server(key=None, model="two", answer=lambda body: "I cannot say") as two,
    ):
        first, second = (
            {"backend": "endpoint", "endpoint_url": server.url, "endpoint_model": server.model}
            for server in (one, two)
        )

        def classify(share: float) -> dict[str, float]:
            config = ClassifyPromptsConfig.model_validate(
                {"judge": first, "other_judges": [second], "max_unscored_share": share}
            )
            return classify_prompts(
                config, prompts=prompts, judge_model=judge_model, labelled_prompts=tmp_path / "out"
            )

        with pytest.raises(StageError, match=r"unscored by two.* last failure: .*I cannot say"):
            classify(0.9)
        metrics = classify(1.0)
    assert (metrics["num_failed_votes"], metrics["num_unscored"]) == (5, 0)


def test_a_judge_that_is_named_twice_is_refused() -> None:
    endpoint = {"backend": "endpoint", "endpoint_url": "http://one/v1", "endpoint_model": "m"}
    elsewhere = {**endpoint, "endpoint_url": "http://two/v1"}
    ClassifyPromptsConfig.model_validate({"judge": endpoint, "other_judges": [elsewhere, {}]})
    for judge, others in ((endpoint, [endpoint]), ({}, [{"backend": "transformers"}])):
        with pytest.raises(ValidationError, match="same judge twice"):
            ClassifyPromptsConfig.model_validate({"judge": judge, "other_judges": others})


def test_two_judges_who_differ_leave_the_decision_to_the_first(
    prompts: Path, judge_model: Path, tmp_path: Path
) -> None:
    def always(category: str) -> Callable[[dict], str]:
        return lambda body: json.dumps({"rationale": "r", "category": category})

    with (
        chat_server(key=None, answer=always("EHD")) as one,
        chat_server(key=None, answer=always("MHD")) as two,
    ):
        first, second = (
            {"backend": "endpoint", "endpoint_url": server.url, "endpoint_model": server.model}
            for server in (one, two)
        )
        config = ClassifyPromptsConfig.model_validate({"judge": first, "other_judges": [second]})
        out = tmp_path / "out"
        classify_prompts(config, prompts=prompts, judge_model=judge_model, labelled_prompts=out)
    rows = read_dataset(out, LabelledPrompt)
    assert {row.category for row in rows} == {"EHD"}
    assert rows[0].votes == {"EHD": 1, "MHD": 1}
    assert rows[0].confidence == 0.5


def test_kubeflow_shows_the_confusion_matrix(classify: Callable, tmp_path: Path) -> None:
    _, _, out = classify(RIGHT)
    shown = dsl.ClassificationMetrics(uri=str(tmp_path / "shown"))
    shown.path = str(tmp_path / "shown")
    log_confusion_matrix(SimpleNamespace(path=str(out)), shown)
    matrix = shown.metadata["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == list(CATEGORIES)
    assert next(row["row"] for row in matrix["rows"]) == [1, 1, 0, 0]
    assert json.loads((tmp_path / "shown").read_text())["labels"] == list(CATEGORIES)


def test_without_gold_labels_kubeflow_is_shown_nothing(tmp_path: Path) -> None:
    (tmp_path / "agreement.json").write_text(json.dumps({"labels": [], "matrix": None}))
    shown = dsl.ClassificationMetrics(uri=str(tmp_path / "shown"))
    shown.path = str(tmp_path / "shown")
    log_confusion_matrix(SimpleNamespace(path=str(tmp_path)), shown)
    assert "confusionMatrix" not in shown.metadata


def test_near_duplicate_questions_are_no_independent_evidence() -> None:
    """Ten questions asked ten times each tell as much as ten, not as a hundred."""

    def answered(number: int, copy: int) -> LabelledPrompt:
        words = " ".join(digest([number, k])[:6] for k in range(12))
        messages = (Message(role="user", content=words + "!" * copy),)
        return LabelledPrompt(
            id=prompt_id(messages),
            messages=messages,
            source="t",
            gold_category=("EHD", "NONE")[number % 2],
            category=("EHD", "NONE")[(number + (number < 3)) % 2],
            rationale="",
            confidence=None,
            votes={},
            status="scored",
            judge="j",
        )

    once = stage.gold_agreement([answered(n, 0) for n in range(10)], seed=0)
    tenfold = stage.gold_agreement([answered(n, c) for n in range(10) for c in range(10)], seed=0)
    assert once is not None and tenfold is not None
    assert tenfold.num == 100
    assert tenfold.kappa.value == pytest.approx(once.kappa.value)
    assert tenfold.kappa.low == pytest.approx(once.kappa.low)
    assert tenfold.accuracy.high - tenfold.accuracy.low > 0.4


def test_what_import_data_counted_is_handed_on(classify: Callable, prompts: Path) -> None:
    _, _, out = classify(RIGHT)
    counts = read_manifest(prompts).counts
    assert counts is not None and counts.quarantined == 2
    assert Counts.model_validate_json((out / "import_counts.json").read_bytes()) == counts
