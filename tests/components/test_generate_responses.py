import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.generate_responses import stage
from components.generate_responses.config import GenerateResponsesConfig
from components.generate_responses.stage import generate_responses
from equilibrate_core.artifacts import Counts, StageRun, read_manifest
from equilibrate_core.completions import Completion
from equilibrate_core.errors import ConfigError, DataError, StageError
from equilibrate_core.generator_config import Sampling
from equilibrate_core.records import (
    HARM_DISPUTED,
    Generation,
    LabelledPrompt,
    Message,
    prompt_id,
)
from equilibrate_core.stage import stage_main
from equilibrate_core.tables import read_dataset, write_dataset
from tests.fake_generator import FakeGenerator, opener
from tests.tiny_model import as_artifact, make_tiny_model

pytest_plugins = ["tests.s3_store"]

SUITES = {"harmful": 4, "benign": 3, "helpful": 2, None: 5}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for suite, number in SUITES.items():
        for index in range(number):
            messages = (Message(role="user", content=f"{suite} question {index}"),)
            rows.append(
                LabelledPrompt(
                    id=prompt_id(messages),
                    messages=messages,
                    source="t",
                    suite=suite,
                    category=None,
                    rationale="",
                    confidence=None,
                    votes={},
                    status="unscored",
                    judge="j",
                )
            )
    run = StageRun(stage="classify_prompts", config={}, seed=0, code_version="x", inputs={})
    path = tmp_path_factory.mktemp("prompts") / "labelled"
    write_dataset(run, path, LabelledPrompt, rows)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_artifact(make_tiny_model(tmp_path_factory.mktemp("model") / "base"))


def config_of(**fields: object) -> GenerateResponsesConfig:
    generator = {"backend": "transformers", "dtype": "float32", "max_model_len": 256}
    settings = {"generator": generator, "sampling": {"max_tokens": 6}, **fields}
    return GenerateResponsesConfig.model_validate(settings)


def run(config: GenerateResponsesConfig, prompts: Path, model: Path, out: Path):
    metrics = generate_responses(config, prompts=prompts, model=model, generations=out)
    return metrics, read_dataset(out, Generation)


def fake(monkeypatch: pytest.MonkeyPatch, answer: object) -> FakeGenerator:
    generator = FakeGenerator(answer)  # type: ignore[arg-type]
    monkeypatch.setattr(stage, "open_generator", opener(generator))
    return generator


def test_a_real_model_answers_every_evaluation_prompt(
    prompts: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [
        "--config", config_of(model_name="aligned").model_dump_json(), "--prompts", str(prompts),
        "--model", str(model), "--generations", str(out),
    ]  # fmt: skip
    assert stage_main(generate_responses, GenerateResponsesConfig, arguments) == 0
    rows = read_dataset(out, Generation)
    assert len(rows) == 9
    assert {row.model for row in rows} == {"aligned"}
    assert len({row.id for row in rows}) == 9
    assert all(0 < row.num_tokens <= 6 for row in rows)
    assert all((row.num_tokens == 6) or (row.finish_reason == "stop") for row in rows)
    counts = read_manifest(out).counts
    assert counts is not None
    assert (counts.read, counts.kept, counts.dropped) == (
        14, 9, {"training_prompt": 5, "no_answer": 0},
    )  # fmt: skip


def test_suites_and_their_sizes_are_chosen_by_id(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda text, _: f"re: {text}")
    config = config_of(suites=("benign", "harmful"), max_prompts_per_suite=2)
    metrics, rows = run(config, prompts, model, tmp_path / "out")
    assert metrics["num_generations"] == 4
    for suite in ("benign", "harmful"):
        ids = sorted(row.id for row in read_dataset(prompts, LabelledPrompt) if row.suite == suite)
        assert [row.prompt_id for row in rows if row.suite == suite] == ids[:2]
    assert all(row.response == f"re: {row.messages[0].content}" for row in rows)
    counts = read_manifest(tmp_path / "out").counts
    assert counts is not None
    assert counts.dropped["over_max_prompts_per_suite"] == 3
    assert counts.dropped["suite_not_chosen"] == 2


def test_prompts_that_two_suites_dispute_are_not_answered_and_counted(prompts: Path) -> None:
    disputed, *rest = (row for row in read_dataset(prompts, LabelledPrompt) if row.suite)
    disputed = disputed.model_copy(update={"metadata": {HARM_DISPUTED: "true"}})
    counts = Counts()
    chosen = stage.choose_prompts(config_of(), [disputed, *rest], counts)
    assert {row.id for row in chosen} == {row.id for row in rest}
    assert counts.dropped == {"disputed_is_harmful": 1}


def test_ids_follow_from_prompt_model_and_sampling(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda text, _: "x")
    other = as_artifact(make_tiny_model(tmp_path / "other", seed=1))
    first, again, renamed, seeded, longer, other_model = (
        [row.id for row in run(config, prompts, path, tmp_path / f"out{index}")[1]]
        for index, (config, path) in enumerate(
            [
                (config_of(), model),
                (config_of(), model),
                (config_of(model_name="again"), model),
                (config_of(seed=1), model),
                (config_of(sampling={"max_tokens": 7}), model),
                (config_of(), other),
            ]
        )
    )
    assert first == again == renamed
    for changed in (seeded, longer, other_model):
        assert not set(first) & set(changed)


def test_the_seed_of_the_stage_reaches_the_sampling(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sampling] = []
    fake(monkeypatch, lambda text, sampling: seen.append(sampling) or "x")
    config = config_of(seed=3, sampling={"temperature": 0.7, "seed": 4})
    _, rows = run(config, prompts, model, tmp_path / "out")
    assert {s.seed for s in seen} == {row.seed for row in rows} == {7}


def test_cut_and_empty_answers_are_kept_and_counted(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(text: str, _: object) -> Completion:
        return Completion("", "stop", 1) if "benign" in text else Completion("so", "length", 6)

    fake(monkeypatch, answer)
    metrics, rows = run(config_of(), prompts, model, tmp_path / "out")
    assert (metrics["num_truncated"], metrics["num_empty"]) == (6, 3)
    assert {row.finish_reason for row in rows if row.suite != "benign"} == {"length"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics


def test_a_failed_prompt_is_dropped_and_counted_up_to_the_limit(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(text: str, _: object) -> str | Exception:
        return RuntimeError("too long") if "harmful question 1" in text else "x"

    fake(monkeypatch, answer)
    metrics, rows = run(config_of(max_failed_share=0.2), prompts, model, tmp_path / "out")
    assert (len(rows), metrics["num_failed"]) == (8, 1)
    counts = read_manifest(tmp_path / "out").counts
    assert counts is not None
    assert counts.dropped["no_answer"] == 1
    (failed,) = (
        row.id
        for row in read_dataset(prompts, LabelledPrompt)
        if row.messages[0].content == "harmful question 1"
    )
    unanswered = json.loads((tmp_path / "out" / "unanswered.json").read_text())
    assert unanswered == {failed: "too long"}
    with pytest.raises(StageError, match=r"1 of 9 prompts have no answer.*1 x too long"):
        run(config_of(max_failed_share=0.1), prompts, model, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_an_unknown_suite_is_a_users_mistake(prompts: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no prompt belongs to \['harmfull'\]"):
        run(config_of(suites=("harmfull",)), prompts, model, tmp_path / "out")


def test_prompts_without_suites_cannot_be_evaluated(model: Path, tmp_path: Path) -> None:
    stage_run = StageRun(stage="classify_prompts", config={}, seed=0, code_version="x", inputs={})
    write_dataset(stage_run, tmp_path / "none", LabelledPrompt, [])
    with pytest.raises(DataError, match="no prompt belongs to an evaluation suite"):
        run(config_of(), tmp_path / "none", model, tmp_path / "out")


def broken_after(number: int) -> Callable[[str, Sampling], str]:
    """A model whose process dies at the row after `number` rows."""
    asked: list[str] = []

    def answer(text: str, _: Sampling) -> str:
        asked.append(text)
        if len(asked) > number:
            raise KeyboardInterrupt
        return f"re: {text}"

    return answer


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_an_interrupted_generation_goes_on_with_the_shard_it_was_in(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest, place: str,
) -> None:  # fmt: skip
    kept = f"{request.getfixturevalue('bucket')}/shards" if place == "s3" else tmp_path / "shards"
    config = config_of(shard_size=2, shards_uri=str(kept))
    fake(monkeypatch, broken_after(5))
    with pytest.raises(KeyboardInterrupt):
        run(config, prompts, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = fake(monkeypatch, lambda text, _: f"re: {text}")
    _, rows = run(config, prompts, model, tmp_path / "out")
    assert len(again.asked) == 9 - 4, "two whole shards of two were kept"
    _, whole = run(config_of(), prompts, model, tmp_path / "whole")
    assert rows == whole


def test_finished_shards_need_no_model(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(shard_size=4, shards_uri=str(tmp_path / "shards"))
    fake(monkeypatch, lambda text, _: text)
    first = run(config, prompts, model, tmp_path / "out")
    monkeypatch.setattr(stage, "open_generator", None)
    assert run(config, prompts, model, tmp_path / "again") == first


@pytest.mark.parametrize("change", [{"seed": 1}, {"sampling": {"max_tokens": 7}}])
def test_shards_of_other_settings_are_not_taken(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict
) -> None:
    shards = {"shards_uri": str(tmp_path / "shards")}
    fake(monkeypatch, lambda text, _: "old")
    run(config_of(**shards), prompts, model, tmp_path / "out")
    fake(monkeypatch, lambda text, _: "new")
    _, rows = run(config_of(**shards, **change), prompts, model, tmp_path / "out")
    assert {row.response for row in rows} == {"new"}


@pytest.mark.parametrize(
    ("name", "other"), [("code_digest", "mended"), ("installed_packages", {"vllm": "9"})]
)
def test_shards_of_other_code_or_libraries_are_not_taken(
    prompts: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    other: object,
) -> None:
    config = config_of(shards_uri=str(tmp_path / "shards"))
    fake(monkeypatch, lambda text, _: "old")
    run(config, prompts, model, tmp_path / "out")
    fake(monkeypatch, lambda text, _: "new")
    monkeypatch.setattr(f"equilibrate_core.stage.{name}", lambda _: other)
    _, rows = run(config, prompts, model, tmp_path / "out")
    assert {row.response for row in rows} == {"new"}


def test_a_shard_with_a_failed_row_is_tried_again(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(shard_size=3, shards_uri=str(tmp_path / "shards"), max_failed_share=0.5)
    fake(monkeypatch, lambda text, _: RuntimeError("500") if text == "harmful question 0" else "x")
    run(config, prompts, model, tmp_path / "out")
    again = fake(monkeypatch, lambda text, _: "x")
    _, rows = run(config, prompts, model, tmp_path / "out")
    assert (len(rows), len(again.asked)) == (9, 3)


def test_answers_with_any_line_separator_are_read_back_whole(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(shards_uri=str(tmp_path / "shards"))
    fake(monkeypatch, lambda text, _: f"{text}\u2028a\u2029b\x85c\x0b\x0c\x1c\r\n你好")
    first = run(config, prompts, model, tmp_path / "out")
    monkeypatch.setattr(stage, "open_generator", None)
    assert run(config, prompts, model, tmp_path / "again") == first


@pytest.mark.parametrize("spoilt", [b'{"text": "half', b"[1]", b'{"answer": 1}', b"\xff"])
def test_a_spoilt_shard_is_named_with_the_mend(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: bytes
) -> None:
    config = config_of(shards_uri=str(tmp_path / "shards"))
    fake(monkeypatch, lambda text, _: text)
    run(config, prompts, model, tmp_path / "out")
    (shard,) = (tmp_path / "shards").iterdir()
    shard.write_bytes(spoilt + b"\n")
    with pytest.raises(DataError, match=rf"{shard.name}: .*; remove the file"):
        run(config, prompts, model, tmp_path / "again")


def test_another_indentation_of_a_prompt_is_answered_anew(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_dataset(prompts, LabelledPrompt)
    (index,) = [i for i, row in enumerate(rows) if "benign question 1" in row.messages[0].content]
    indented = (Message(role="user", content="benign  question\n    1"),)
    assert prompt_id(indented) == rows[index].id
    rows[index] = rows[index].model_copy(update={"messages": indented})
    stage_run = StageRun(stage="classify_prompts", config={}, seed=0, code_version="x", inputs={})
    write_dataset(stage_run, tmp_path / "changed", LabelledPrompt, rows)
    config = config_of(shard_size=1, shards_uri=str(tmp_path / "shards"))
    fake(monkeypatch, lambda text, _: text)
    run(config, prompts, model, tmp_path / "out")
    again = fake(monkeypatch, lambda text, _: text)
    run(config, tmp_path / "changed", model, tmp_path / "again")
    assert again.asked == ["benign  question\n    1"]


def test_shards_of_the_backend_that_auto_chose_elsewhere_are_not_taken(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(generator={"backend": "auto"}, shards_uri=str(tmp_path / "shards"))
    for problem, asked in (("not installed", 9), (None, 9), ("not installed", 0)):
        monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda said=problem: said)
        generator = fake(monkeypatch, lambda text, _: text)
        out = tmp_path / f"out {problem} {asked}"
        run(config, prompts, model, out)
        assert len(generator.asked) == asked
        manifest = read_manifest(out)
        assert manifest.config["generator"]["backend"] == "auto"
        assert manifest.resolved["generator.backend"] == ("transformers" if problem else "vllm")
        assert manifest.resolved["generator.dtype"] in ("float32", "bfloat16")
        assert {"torch", "transformers"} <= manifest.packages.keys()


def test_a_server_cannot_answer_for_the_model() -> None:
    endpoint = {"backend": "endpoint", "endpoint_url": "http://one/v1", "endpoint_model": "m"}
    with pytest.raises(ValidationError, match="another model's; use auto, vllm or transformers"):
        config_of(generator=endpoint)
