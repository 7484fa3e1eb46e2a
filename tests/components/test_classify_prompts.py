import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.classify_prompts import stage
from components.classify_prompts.config import ClassifyPromptsConfig
from components.classify_prompts.stage import CATEGORY, classify_prompts
from equilibrate_core.artifacts import StageRun, read_manifest
from equilibrate_core.errors import ArtifactError, StageError
from equilibrate_core.records import CATEGORIES, LabelledPrompt, Message, Prompt, prompt_id
from equilibrate_core.stage import stage_main
from equilibrate_core.tables import read_dataset, write_dataset
from tests.chat_server import chat_server
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
    write_dataset(run, tmp_path / "prompts", Prompt, rows)
    return tmp_path / "prompts"


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_artifact(
        make_tiny_model(tmp_path_factory.mktemp("model") / "judge", max_positions=4096)
    )


@pytest.fixture
def classify(prompts: Path, judge_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    def run(answers: dict[str, str], **config: object):
        def answer(text: str, _: object) -> str | Exception:
            name = next(name for name in GOLD if name in text.rsplit("<<<REQUEST", 1)[1])
            category = answers.get(name)
            if category is None:
                return RuntimeError(f"no answer for {name}")
            return json.dumps({"rationale": f"about {name}", "category": category})

        generator = FakeGenerator(answer)
        monkeypatch.setattr(stage, "open_generator", opener(generator))
        settings = ClassifyPromptsConfig.model_validate(config)
        out = prompts.parent / "labelled"
        metrics = classify_prompts(
            settings, prompts=prompts, judge_model=judge_model, labelled_prompts=out
        )
        rows = {row.messages[0].content: row for row in read_dataset(out, LabelledPrompt)}
        return metrics, rows, out

    return run


RIGHT = {"alpha": "EHD", "beta": "IHD", "gamma": "IHD", "delta": "MHD", "epsilon": "NONE"}


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
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    counts = read_manifest(out).counts
    assert counts is not None
    assert (counts.read, counts.kept) == (5, 5)


def test_too_many_unscored_rows_leave_no_artifact(classify: Callable, prompts: Path) -> None:
    with pytest.raises(StageError, match="2 of 5 rows are unscored"):
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


def test_the_prompt_defines_every_category_with_examples_in_both_languages() -> None:
    for category in CATEGORIES:
        assert f"- {category}: " in CATEGORY.template
        examples = [x for x in CATEGORY.template.splitlines() if f'" -> {category}:' in x]
        assert any(line.isascii() for line in examples)
        assert any(not line.isascii() for line in examples)
    assert "{{judged}}" in CATEGORY.template[-200:]


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
