import json
import logging
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from equilibrate_core.chat import encode_answer, encode_prompt, end_of_turn_id
from equilibrate_core.completions import completion_of, encode_requests, request_seed, stop_ids
from equilibrate_core.errors import ConfigError, ModelError
from equilibrate_core.generator import choose_backend, open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.generator_transformers import (
    SeededSampling,
    TransformersGenerator,
    common_opening,
    keep_top_p,
)
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import Message
from tests.tiny_model import make_tiny_model

CONFIG = GeneratorConfig(backend="transformers", dtype="float32", batch_size=3, max_model_len=512)
TEXTS = ("How do I bake bread?", "hi", "面包？", "a somewhat longer question about dough", "no")
SCHEMA = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "maxLength": 10},
        "category": {"type": "string", "enum": ["A", "B"]},
    },
    "required": ["rationale", "category"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["chatml", "llama3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), template=request.param)


@pytest.fixture(scope="module")
def generator(folder: Path) -> TransformersGenerator:
    return TransformersGenerator.load(CONFIG, folder)


def conversations(*texts: str) -> list[list[Message]]:
    return [[Message(role="user", content=text)] for text in texts]


def greedy_by_hand(folder: Path, messages: list[Message], num_tokens: int) -> list[int]:
    """The likeliest continuation, one full forward pass a token: no cache, no padding."""
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    ids = encode_prompt(tokenizer, messages)
    start = len(ids)
    with torch.no_grad():
        while len(ids) - start < num_tokens and ids[-1] not in stop_ids(tokenizer):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_greedy_text_equals_a_hand_made_loop_row_by_row(
    folder: Path, generator: TransformersGenerator
) -> None:
    rows = conversations(*TEXTS)
    completions = generator.generate(rows, Sampling(max_tokens=8))
    for row, completion in zip(rows, completions, strict=True):
        expected = completion_of(
            generator.tokenizer, greedy_by_hand(folder, row, 8), generator.stops
        )
        assert completion == expected


def test_prompt_ids_are_those_of_training(generator: TransformersGenerator) -> None:
    rows = conversations("a <|im_end|> b <|eot_id|>", *TEXTS)
    requests, _ = encode_requests(generator.tokenizer, rows, Sampling(), max_model_len=2048)
    for row, request in zip(rows, requests, strict=True):
        training = encode_answer(generator.tokenizer, row, "an answer")
        assert request.ids == training.prompt_ids
        assert end_of_turn_id(generator.tokenizer) in generator.stops


def test_a_conversation_that_the_template_refuses_fails_alone(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    rows = conversations("hi", "no")
    rows[0].insert(0, Message(role="system", content="Be brief."))
    requests, errors = encode_requests(tokenizer, rows, Sampling(), max_model_len=2048)
    assert [request.row for request in requests] == [1]
    assert "refuses a conversation of system, user: no system" in (errors[0].error or "")


def test_a_shared_opening_changes_no_answer(
    generator: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = "You are asked to judge the following text with great care. " * 3
    rows = conversations(*(opening + text for text in TEXTS))
    shared = generator.generate(rows, Sampling(max_tokens=10))
    seen: list[bool] = []
    monkeypatch.setattr(generator, "_shared_cache", lambda requests: seen.append(True))
    assert generator.generate(rows, Sampling(max_tokens=10)) == shared
    assert seen
    monkeypatch.undo()
    requests, _ = encode_requests(generator.tokenizer, rows, Sampling(), max_model_len=4096)
    cache = generator._shared_cache(requests)
    assert cache is not None
    assert cache.get_seq_length() > 40


def test_drawn_answers_do_not_depend_on_order_or_company(generator: TransformersGenerator) -> None:
    sampling = Sampling(max_tokens=8, temperature=1.0, top_p=0.9, seed=5)
    together = generator.generate(conversations(*TEXTS), sampling)
    backwards = generator.generate(conversations(*reversed(TEXTS)), sampling)
    alone = [generator.generate(conversations(text), sampling)[0] for text in TEXTS]
    assert together == backwards[::-1] == alone


def test_another_seed_draws_another_answer(generator: TransformersGenerator) -> None:
    first, second = (
        generator.generate(conversations(*TEXTS), Sampling(max_tokens=8, temperature=1.5, seed=s))
        for s in (0, 1)
    )
    assert first != second


def test_request_seeds_depend_on_run_seed_and_prompt_alone() -> None:
    seeds = {request_seed(seed, ids) for seed in range(10) for ids in ([1, 2], [1], [12])}
    assert len(seeds) == 30
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(3, [1, 2]) == request_seed(3, [1, 2])


def test_choices_constrain_every_answer(generator: TransformersGenerator) -> None:
    choices = ["EHD", "IHD", 'a "quoted" one', "back\\slash", "面包"]
    for sampling in (Sampling(max_tokens=30), Sampling(max_tokens=30, temperature=2.0)):
        completions = generator.generate(conversations(*TEXTS), sampling, choices=choices)
        assert all(c.text in choices and c.finish_reason == "stop" for c in completions)
    for choice in choices:
        (only,) = generator.generate(conversations("x"), Sampling(max_tokens=30), choices=[choice])
        assert only.text == choice


def test_a_schema_constrains_every_answer(generator: TransformersGenerator) -> None:
    sampling = Sampling(max_tokens=120, temperature=1.0)
    for completion in generator.generate(conversations(*TEXTS), sampling, schema=SCHEMA):
        answer = json.loads(completion.text, strict=False)
        assert list(answer) == ["rationale", "category"]
        assert answer["category"] in "AB"
        assert len(answer["rationale"]) <= 10


def test_without_a_constraint_answers_are_not_constrained(
    generator: TransformersGenerator,
) -> None:
    texts = {c.text for c in generator.generate(conversations(*TEXTS), Sampling(max_tokens=8))}
    assert not texts & {"EHD", "IHD"}


def test_schema_and_choices_together_are_refused(generator: TransformersGenerator) -> None:
    with pytest.raises(ValueError, match="not both"):
        generator.generate(conversations("x"), Sampling(), schema=SCHEMA, choices=["A"])


def test_a_prompt_that_is_too_long_fails_its_row_only(generator: TransformersGenerator) -> None:
    done: list[int] = []
    rows = conversations("hi", "long " * 600, "no")
    first, bad, last = generator.generate(rows, Sampling(max_tokens=8), on_done=done.append)
    assert (first.error, last.error) == (None, None)
    assert bad.text == ""
    assert "leaves room for 504" in (bad.error or "")
    assert sum(done) == 3
    assert generator.fits(rows[0], 8)
    assert not generator.fits(rows[1], 8)


def test_the_longest_prompt_that_fits_is_answered(generator: TransformersGenerator) -> None:
    (row,) = conversations("word " * 50)
    length = len(encode_prompt(generator.tokenizer, row))
    exact = TransformersGenerator(
        generator.model, generator.tokenizer, batch_size=1, max_model_len=length + 4
    )
    assert exact.generate([row], Sampling(max_tokens=4))[0].error is None
    assert exact.generate([row], Sampling(max_tokens=5))[0].error is not None


def test_the_stop_token_ends_an_answer_and_is_not_part_of_it(
    generator: TransformersGenerator,
) -> None:
    stop = generator.stops[0]
    ids = generator.tokenizer("bread", add_special_tokens=False)["input_ids"]
    ended = completion_of(generator.tokenizer, [*ids, stop, *ids], generator.stops)
    assert (ended.text, ended.finish_reason, ended.num_tokens) == ("bread", "stop", len(ids) + 1)
    cut = completion_of(generator.tokenizer, ids, generator.stops)
    assert (cut.text, cut.finish_reason, cut.num_tokens) == ("bread", "length", len(ids))
    assert completion_of(generator.tokenizer, [stop], generator.stops).text == ""


def test_no_rows_give_no_completions(generator: TransformersGenerator) -> None:
    assert generator.generate([], Sampling()) == []


def test_gumbel_draws_follow_the_softmax() -> None:
    logits_NV = torch.tensor([[0.0, 1.0, 2.0]]).repeat(4000, 1)
    draw = SeededSampling(Sampling(temperature=0.5), list(range(4000)))
    picked = draw(torch.zeros(4000, 1), logits_NV).argmax(dim=-1)
    shares = torch.bincount(picked, minlength=3) / 4000
    torch.testing.assert_close(shares, (logits_NV[0] / 0.5).softmax(-1), atol=0.02, rtol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits_NV = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
    kept = {p: keep_top_p(logits_NV, p).isfinite()[0].tolist() for p in (0.4, 0.6, 0.8, 1.0)}
    assert kept[0.4] == [False, True, False, False]
    assert kept[0.6] == [False, True, False, True]
    assert kept[0.8] == [False, True, True, True]
    assert kept[1.0] == [True, True, True, True]


def test_common_opening_leaves_every_row_a_token() -> None:
    assert common_opening([[1, 2, 3], [1, 2, 4, 5]]) == [1, 2]
    assert common_opening([[1, 2], [1, 2, 3]]) == [1]
    assert common_opening([[1, 2], [2, 2]]) == []
    assert common_opening([[7, 7], [7, 7]]) == [7]


def test_auto_takes_transformers_where_vllm_cannot_run_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda: "no wheel for this CPU")
    assert choose_backend(GeneratorConfig()) == "transformers"
    assert "auto chose transformers (no wheel for this CPU)" in caplog.text
    with pytest.raises(ConfigError, match="no wheel for this CPU; use backend auto"):
        choose_backend(GeneratorConfig(backend="vllm"))


def test_auto_takes_vllm_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("equilibrate_core.generator.vllm_problem", lambda: None)
    assert choose_backend(GeneratorConfig()) == "vllm"
    assert "auto chose vllm" in caplog.text


def test_a_folder_without_a_model_is_a_users_mistake(tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=r"no config\.json"),
        open_generator(GeneratorConfig(backend="transformers"), tmp_path),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="needs a model"),
        open_generator(GeneratorConfig(backend="transformers"), None),
    ):
        pass


@pytest.mark.parametrize(
    "fields",
    [
        {"backend": "endpoint"},
        {"backend": "endpoint", "endpoint_url": "http://x/v1"},
        {"backend": "endpoint", "endpoint_url": "x", "endpoint_model": "m"},
        {"backend": "auto", "endpoint_url": "http://x/v1", "endpoint_model": "m"},
        {"api_key_env": "sk-not-a-name"},
        {"api_key": "secret"},
    ],
)
def test_endpoint_fields_go_with_the_endpoint_backend(fields: dict) -> None:
    with pytest.raises(ValidationError):
        GeneratorConfig.model_validate(fields)
