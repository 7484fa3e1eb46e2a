"""Parts of one model's answers, put together: equal to one task's, or refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.gather_generations.config import GatherGenerationsConfig
from components.gather_generations.stage import gather_generations
from components.generate_responses import stage
from components.generate_responses.config import GenerateResponsesConfig
from components.generate_responses.stage import generate_responses
from components.write_report.conditions import check_conditions
from equilibrate_core.artifacts import Manifest, StageRun, read_manifest
from equilibrate_core.config import parse_config
from equilibrate_core.errors import ConfigError, DataError, EquilibrateError, StageError
from equilibrate_core.records import Generation, LabelledPrompt, Message, prompt_id
from equilibrate_core.stage import stage_main
from equilibrate_core.tables import read_dataset, write_dataset
from tests.fake_generator import FakeGenerator, opener
from tests.tiny_model import as_artifact, make_tiny_model

SUITES = {"harmful": 7, "benign": 5, "helpful": 2, None: 6}
ANSWERED = 14


def labelled() -> list[LabelledPrompt]:
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
    return rows


def dataset(path: Path, rows: list[LabelledPrompt]) -> Path:
    run = StageRun(stage="classify_prompts", config={}, seed=0, code_version="x", inputs={})
    write_dataset(run, path, LabelledPrompt, rows)
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("prompts") / "labelled", labelled())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_artifact(make_tiny_model(tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    return answers(monkeypatch, lambda text, _: f"re: {text}")


def answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> FakeGenerator:
    generator = FakeGenerator(answer)
    monkeypatch.setattr(stage, "open_generator", opener(generator))
    return generator


def config_of(**fields: Any) -> GenerateResponsesConfig:
    generator = {"backend": "transformers", "dtype": "float32", "max_model_len": 256}
    settings = {"generator": generator, "sampling": {"max_tokens": 6}, **fields}
    return parse_config(settings, GenerateResponsesConfig, "section")


def answer(out: Path, prompts: Path, model: Path, **fields: Any) -> Path:
    generate_responses(config_of(**fields), prompts=prompts, model=model, generations=out)
    return out


def answer_in_parts(
    folder: Path, prompts: Path, model: Path, num_shards: int, **fields: Any
) -> list[Path]:
    return [
        answer(
            folder / f"part {shard}", prompts, model, shard=shard, num_shards=num_shards, **fields
        )
        for shard in range(num_shards)
    ]


def gather(out: Path, parts: list[Path], num_shards: int | None = None) -> dict[str, float]:
    config = GatherGenerationsConfig(num_shards=num_shards or len(parts))
    named: dict[str, Any] = {f"part_{place}": path for place, path in enumerate(parts)}
    return gather_generations(config, generations=out, **named)


def content(manifest: Manifest) -> dict[str, Any]:
    fields = {"schema_name", "rows", "files", "counts", "config", "seed", "resolved", "packages"}
    return manifest.model_dump(include=fields) | {"digest": manifest.digest}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_parts_together_are_what_one_task_gives_byte_for_byte(
    prompts: Path, model: Path, tmp_path: Path, temperature: float
) -> None:
    """With a real model; at 0.9 a seed that depends on the part would draw other answers."""
    fields = {"seed": 3, "sampling": {"max_tokens": 6, "temperature": temperature}}
    one = read_manifest(answer(tmp_path / "one", prompts, model, **fields))
    metrics = gather(tmp_path / "all", answer_in_parts(tmp_path, prompts, model, 3, **fields))
    all_parts = read_manifest(tmp_path / "all")
    rows = read_dataset(tmp_path / "all", Generation)
    assert rows == read_dataset(tmp_path / "one", Generation)
    assert len({row.response for row in rows}) > ANSWERED / 2
    assert content(all_parts) == content(one)
    assert (one.rows, metrics["num_generations"]) == (ANSWERED, ANSWERED)
    assert one.inputs.items() < all_parts.inputs.items()
    assert all_parts.inputs["part_2"] == read_manifest(tmp_path / "part 2").digest


def test_the_order_of_rows_and_of_parts_does_not_matter(
    prompts: Path, model: Path, tmp_path: Path, echo: FakeGenerator
) -> None:
    backwards = dataset(tmp_path / "backwards", labelled()[::-1])
    parts = answer_in_parts(tmp_path, prompts, model, 3)
    others = answer_in_parts(tmp_path / "b", backwards, model, 3)
    digests = [read_manifest(path).digest for path in parts]
    assert [read_manifest(path).digest for path in others] == digests
    gather(tmp_path / "forth", parts)
    gather(tmp_path / "back", parts[::-1])
    assert read_manifest(tmp_path / "forth").digest == read_manifest(tmp_path / "back").digest


def test_every_suite_is_dealt_out_evenly_and_every_prompt_once(
    prompts: Path, model: Path, tmp_path: Path, echo: FakeGenerator
) -> None:
    parts = answer_in_parts(tmp_path, prompts, model, 3, max_prompts_per_suite=6)
    rows = [read_dataset(path, Generation) for path in parts]
    for suite, number in (("harmful", 6), ("benign", 5), ("helpful", 2)):
        sizes = [sum(row.suite == suite for row in part) for part in rows]
        assert sum(sizes) == number and max(sizes) - min(sizes) <= 1
    assert sorted(len(part) for part in rows) == [4, 4, 5]
    assert len({row.prompt_id for part in rows for row in part}) == 13
    assert sorted(echo.asked) == sorted({r.messages[0].content for part in rows for r in part})


def test_counts_of_the_parts_add_up_to_those_of_one_task(
    prompts: Path, model: Path, tmp_path: Path, echo: FakeGenerator
) -> None:
    fields = {"suites": ("harmful", "benign"), "max_prompts_per_suite": 4}
    parts = answer_in_parts(tmp_path, prompts, model, 3, **fields)
    counts = [read_manifest(path).counts for path in parts]
    assert [c.read for c in counts if c] == [8, 7, 5]
    gather(tmp_path / "all", parts)
    one = read_manifest(answer(tmp_path / "one", prompts, model, **fields)).counts
    assert one == read_manifest(tmp_path / "all").counts
    assert one is not None and (one.read, one.kept) == (20, 8)
    assert one.dropped == {
        "training_prompt": 6, "over_max_prompts_per_suite": 4, "suite_not_chosen": 2, "no_answer": 0
    }  # fmt: skip


def test_more_shards_than_prompts_leave_parts_empty_and_their_model_unloaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: FakeGenerator
) -> None:
    few = dataset(tmp_path / "few", [row for row in labelled() if row.suite == "helpful"])
    parts = answer_in_parts(tmp_path, few, model, 2)
    monkeypatch.setattr(stage, "open_generator", None)
    empty = answer(tmp_path / "empty", few, model, shard=3, num_shards=4)
    assert read_manifest(empty).rows == 0
    gather(tmp_path / "all", parts)
    assert read_manifest(tmp_path / "all").rows == 2


def failing(*names: str) -> Any:
    return lambda text, _: RuntimeError("too long") if text in names else "x"


def in_part(prompts: Path, shard: int, place: int) -> str:
    """The text of a prompt that part `shard` of three answers."""
    chosen = sorted((row.suite, row.id, row) for row in read_dataset(prompts, LabelledPrompt)
                    if row.suite)  # fmt: skip
    return chosen[shard::3][place][2].messages[0].content


def test_a_part_may_fail_what_one_task_for_all_could(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 of 14 is a seventh, of the 5 prompts of the part much more."""
    answers(monkeypatch, failing(in_part(prompts, 0, 0), in_part(prompts, 0, 1)))
    parts = answer_in_parts(tmp_path, prompts, model, 3, max_failed_share=0.15)
    metrics = gather(tmp_path / "all", parts)
    assert (metrics["num_generations"], metrics["num_failed"]) == (12, 2)
    one = answer(tmp_path / "one", prompts, model, max_failed_share=0.15)
    unanswered = (tmp_path / "all" / "unanswered.json").read_text()
    assert list(json.loads(unanswered).values()) == ["too long"] * 2
    assert unanswered == (one / "unanswered.json").read_text()
    assert content(read_manifest(one)) == content(read_manifest(tmp_path / "all"))
    with pytest.raises(StageError, match="2 of 14 prompts have no answer"):
        answer(tmp_path / "x", prompts, model, shard=0, num_shards=3, max_failed_share=0.14)


def test_what_all_parts_failed_together_is_held_against_the_limit(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, failing(in_part(prompts, 0, 0), in_part(prompts, 2, 1)))
    parts = answer_in_parts(tmp_path, prompts, model, 3, max_failed_share=0.1)
    with pytest.raises(StageError, match=r"^gather_generations: 2 of 14 prompts have no answer"):
        gather(tmp_path / "all", parts)
    assert not (tmp_path / "all").exists()


def test_a_part_is_resumed_by_itself(
    prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"shards_uri": str(tmp_path / "shards"), "shard_size": 2}
    generator = answers(monkeypatch, lambda text, _: f"re: {text}")
    first = answer_in_parts(tmp_path / "a", prompts, model, 2, **kept)
    assert len(generator.asked) == ANSWERED
    monkeypatch.setattr(stage, "open_generator", None)  # not needed again
    again = answer_in_parts(tmp_path / "b", prompts, model, 2, **kept)
    for path, other in zip(first, again, strict=True):
        assert read_manifest(path).digest == read_manifest(other).digest


def test_the_report_takes_answers_in_parts_as_asked_alike_but_no_single_part(
    prompts: Path, model: Path, tmp_path: Path, echo: FakeGenerator
) -> None:
    parts = answer_in_parts(tmp_path, prompts, model, 2, model_name="aligned")
    gather(tmp_path / "all", parts)
    base = read_manifest(answer(tmp_path / "one", prompts, model))
    aligned = read_manifest(tmp_path / "all")
    check_conditions({"base_generations": base, "aligned_generations": aligned})
    with pytest.raises(DataError, match="num_shards 2, but base_generations with 1"):
        check_conditions({"base_generations": base, "aligned_generations": read_manifest(parts[0])})


@pytest.fixture
def parts(prompts: Path, model: Path, tmp_path: Path, echo: FakeGenerator) -> list[Path]:
    return answer_in_parts(tmp_path, prompts, model, 3)


def refused(parts: list[Path], num_shards: int, tmp_path: Path) -> str:
    with pytest.raises(EquilibrateError) as error:
        gather(tmp_path / "all", parts, num_shards)
    assert not (tmp_path / "all").exists()
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value)


def test_a_missing_or_doubled_part_is_refused(parts: list[Path], tmp_path: Path) -> None:
    message = refused(parts[:2], 3, tmp_path)
    assert message.startswith("of shards 0 to 2, [2] are missing and [] are there more than once")
    message = refused([parts[0], parts[1], parts[1]], 3, tmp_path)
    assert "[2] are missing and [1] are there more than once" in message
    message = refused([*parts, parts[0]], 3, tmp_path)
    assert "[] are missing and [0] are there more than once" in message


def test_the_whole_or_a_part_of_another_number_is_refused(
    parts: list[Path], prompts: Path, model: Path, tmp_path: Path
) -> None:
    whole = answer(tmp_path / "one", prompts, model)
    message = refused([*parts[:2], whole], 3, tmp_path)
    assert message.startswith("part_2: made with num_shards 1, but 3 parts are gathered")
    halves = answer_in_parts(tmp_path / "halves", prompts, model, 2)
    assert "part_0: made with num_shards 2" in refused([halves[0], *parts[1:]], 3, tmp_path)
    assert "part_0: made with num_shards None" in refused([prompts, *parts[1:]], 3, tmp_path)


OTHERS = {
    "seed": ({"seed": 1}, "seed 1, but part_0 with 0"),
    "name": ({"model_name": "aligned"}, "model_name 'aligned', but part_0 with 'base'"),
    "sampling": ({"sampling": {"max_tokens": 7}}, "sampling.max_tokens 7, but part_0 with 6"),
    "limit": ({"max_failed_share": 0.5}, "max_failed_share 0.5, but part_0 with 0.02"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_part_of_other_settings_is_refused(
    parts: list[Path], prompts: Path, model: Path, tmp_path: Path, other: str
) -> None:
    fields, expected = OTHERS[other]
    odd = answer(tmp_path / "odd", prompts, model, shard=1, num_shards=3, **fields)
    message = refused([parts[0], odd, parts[2]], 3, tmp_path)
    assert message.startswith(f"part_1: made with {expected}")


def test_a_part_of_another_model_other_prompts_or_other_code_is_refused(
    parts: list[Path], prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"shard": 2, "num_shards": 3}
    other_model = as_artifact(make_tiny_model(tmp_path / "other", seed=1))
    fewer = dataset(tmp_path / "fewer", labelled()[1:])
    odd = {
        "model": answer(tmp_path / "m", prompts, other_model, **part),
        "prompts": answer(tmp_path / "p", fewer, model, **part),
    }
    monkeypatch.setattr("equilibrate_core.stage.code_digest", lambda stage: "edited")
    odd["code"] = answer(tmp_path / "c", prompts, model, **part)
    for what, path in odd.items():
        message = refused([*parts[:2], path], 3, tmp_path)
        assert re.match(f"part_2: made with {what} '.*, but part_0 with '.*; generate all", message)


def test_a_part_that_ran_otherwise_under_the_same_settings_is_refused(
    parts: list[Path], prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` may come to something else on another machine, and libraries differ."""
    part = {"shard": 1, "num_shards": 3}
    monkeypatch.setattr(stage, "resolved_fields", lambda *_: {"generator.dtype": "bfloat16"})
    odd = answer(tmp_path / "dtype", prompts, model, **part)
    message = refused([parts[0], odd, parts[2]], 3, tmp_path)
    assert message.startswith("part_1: made with generator.backend, as run, None, but part_0 with")
    monkeypatch.undo()
    answers(monkeypatch, lambda text, _: f"re: {text}")
    monkeypatch.setattr(
        "equilibrate_core.stage.installed_packages", lambda _: {"tokenizers": "0.1"}
    )
    odd = answer(tmp_path / "library", prompts, model, **part)
    assert "library tokenizers '0.1', but part_0 with" in refused(
        [parts[0], odd, parts[2]], 3, tmp_path
    )


def test_the_command_line_gathers_what_it_is_given(parts: list[Path], tmp_path: Path) -> None:
    given = [text for n, path in enumerate(parts) for text in (f"--part_{n}", str(path))]
    arguments = ["--config", '{"num_shards": 3}', *given, "--generations", str(tmp_path / "all")]
    assert stage_main(gather_generations, GatherGenerationsConfig, arguments) == 0
    assert read_manifest(tmp_path / "all").rows == ANSWERED


def test_shards_count_from_0_and_are_at_most_8() -> None:
    with pytest.raises(ConfigError, match="shard 3 is none of num_shards 3; they count from 0"):
        config_of(shard=3, num_shards=3)
    with pytest.raises(ConfigError, match=r"num_shards: .*less than or equal to 8"):
        config_of(num_shards=9)
    with pytest.raises(ValidationError):
        GatherGenerationsConfig(num_shards=1)
