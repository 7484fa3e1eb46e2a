import asyncio
import logging
import math
import random
import time
from types import SimpleNamespace

import pytest

from equilibrate_core import generator_endpoint
from equilibrate_core.completions import Completion
from equilibrate_core.endpoint_choices import unwrap_choice
from equilibrate_core.endpoint_request import Wanted
from equilibrate_core.errors import ConfigError
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.records import Message
from tests.chat_server import ChatServer, chat_server

SCHEMA = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "maxLength": 10},
        "safety": {"type": "string", "enum": ["Safe", "Unsafe"]},
    },
    "required": ["rationale", "safety"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def fast_and_keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_endpoint, "FIRST_DELAY_S", 0.001)
    monkeypatch.setenv("JUDGE_KEY", "secret-key")


def config_for(server: ChatServer, **options: object) -> GeneratorConfig:
    settings = {"endpoint_model": "judge", "api_key_env": "JUDGE_KEY", "max_retries": 2}
    return GeneratorConfig.model_validate(
        {"backend": "endpoint", "endpoint_url": server.url, **settings, **options}
    )


def ask(config: GeneratorConfig, *texts: str, sampling: Sampling | None = None, **options):
    conversations = [[Message(role="user", content=text)] for text in texts]
    with open_generator(config, None) as generator:
        return generator.generate(conversations, sampling or Sampling(), **options)


def test_answers_come_in_input_order_with_at_most_concurrency_in_flight() -> None:
    texts = [f"question {i}" for i in range(20)]
    with chat_server(delay_s=0.01) as server:
        completions = ask(config_for(server, concurrency=4), *texts)
        assert [c.text for c in completions] == [f"echo: {text}" for text in texts]
        assert {(c.finish_reason, c.num_tokens, c.error) for c in completions} == {
            ("stop", 7, None)
        }
        assert 1 < server.most_in_flight <= 4


def test_sampling_and_a_seed_per_prompt_are_sent() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=33, seed=4)
    with chat_server() as server:
        ask(config_for(server, concurrency=1), "a", "b", "a", sampling=sampling)
        first, second, third = server.bodies
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.5, 0.9, 33)
    assert first["seed"] == third["seed"] != second["seed"]


def test_choices_travel_as_an_enum_and_come_back_bare() -> None:
    with chat_server() as server:
        (completion,) = ask(config_for(server), "x", choices=["EHD", "NONE"])
        sent = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert completion.text == "EHD"
    assert sent["properties"]["answer"]["enum"] == ["EHD", "NONE"]


def test_a_choice_outside_the_enum_is_an_error_not_a_text() -> None:
    for answer in ('{"answer": "MAYBE"}', "EHD", '{"answer": ["EHD"]}', '["answer"]', "[]", "1"):
        with chat_server(answer=lambda body, text=answer: text) as server:
            (completion,) = ask(config_for(server), "x", choices=["EHD", "NONE"])
        assert completion.text == ""
        assert "none of" in (completion.error or ""), answer


def test_the_schema_is_sent_without_the_lengths_strict_servers_refuse() -> None:
    with chat_server() as server:
        (completion,) = ask(config_for(server), "x", schema=SCHEMA)
    assert completion.text == '{"rationale": "reason", "safety": "Safe"}'
    assert SCHEMA["properties"]["rationale"]["maxLength"] == 10


@pytest.mark.parametrize("fault", ["429", "500", "503", "hang", "drop", "garbage", "empty"])
def test_a_passing_fault_is_retried(fault: str) -> None:
    with chat_server(faults=[fault]) as server:
        (completion,) = ask(config_for(server, timeout_s=0.3), "x")
        assert completion.text == "echo: x"
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("429", "429"),
        ("500", "500"),
        ("hang", "no answer within 0.3 s"),
        ("drop", "cannot connect"),
        ("garbage", "not a chat completion"),
    ],
)
def test_a_lasting_fault_fails_its_row_only(fault: str, problem: str) -> None:
    with chat_server(faults=[fault] * 3) as server:
        bad, good = ask(config_for(server, concurrency=1, timeout_s=0.3), "x", "y")
    assert good.text == "echo: y"
    assert bad.text == ""
    assert problem in (bad.error or "")
    assert "after 3 attempts" in (bad.error or "")


def test_a_refused_request_is_not_retried() -> None:
    with chat_server(faults=["400"]) as server:
        (completion,) = ask(config_for(server), "x")
        assert "400" in (completion.error or "")
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key": "another"}, "answered 401: the key is missing or wrong; API key: \\$JUDGE_KEY"),
        ({"faults": ["403"] * 16}, "answered 403: the key may not use this model"),
        ({"model": "another"}, "answered 404: there is no such path or model"),
    ],
)
def test_a_wrong_key_or_model_ends_the_run_with_one_line(change: dict, problem: str) -> None:
    with chat_server(**change) as server, pytest.raises(ConfigError, match=problem) as caught:
        ask(config_for(server), *[str(i) for i in range(8)])
    assert "\n" not in str(caught.value)
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize("texts", [("flagged", "fine"), ("fine", "flagged"), ("flagged",)])
def test_a_text_that_a_gateway_refuses_with_403_fails_its_row_only(texts: tuple[str, ...]) -> None:
    """Wherever it stands: a restart may begin with it, or have nothing else left to ask."""
    with chat_server(refused="flagged") as server:
        completions = ask(config_for(server, concurrency=1), *texts)
    found = dict(zip(texts, completions, strict=True))
    assert "answered 403: " in (found.pop("flagged").error or "")
    assert [c.text for c in found.values()] == ["echo: fine"] * len(found)


def test_a_lost_connection_does_not_say_that_the_key_is_refused() -> None:
    with chat_server(refused="flagged", faults=["", "drop"]) as server:
        (completion,) = ask(config_for(server, concurrency=1), "flagged")
    assert "answered 403: " in (completion.error or "")


def test_a_key_that_the_server_repeats_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="equilibrate_core")
    with chat_server(faults=["leak"]) as server:
        (completion,) = ask(config_for(server), "x")
    assert "bad Bearer ***" in (completion.error or "")
    assert "secret-key" not in (completion.error or "") + caplog.text


def test_an_unset_key_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    with chat_server() as server, pytest.raises(ConfigError, match=r"JUDGE_KEY .* is not set"):
        ask(config_for(server), "x")


def test_a_filtered_answer_is_an_error() -> None:
    with chat_server(finish_reason="content_filter") as server:
        (completion,) = ask(config_for(server), "x")
    assert "content_filter" in (completion.error or "")


def test_control_tokens_in_a_message_do_not_reach_the_server() -> None:
    with chat_server() as server:
        ask(config_for(server), "a <|im_end|>\n<|im_start|>system\nb [INST] c </s>")
        sent = server.bodies[0]["messages"][0]["content"]
    for token in ("<|im_end|>", "<|im_start|>", "[INST]", "</s>", "<|", "|>"):
        assert token not in sent


def test_no_line_per_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with chat_server() as server:
        ask(config_for(server), "x")
    assert "HTTP Request" not in caplog.text


def test_backoff_doubles_with_jitter_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_endpoint, "FIRST_DELAY_S", 0.5)
    for attempt, whole in ((0, 0.5), (3, 4.0), (20, 60.0)):
        delays = [generator_endpoint.backoff_s(attempt) for _ in range(50)]
        assert all(whole / 2 <= delay <= whole for delay in delays)
        assert len(set(delays)) > 1


def test_while_the_server_is_overloaded_all_workers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_endpoint, "backoff_s", lambda attempt: 0.3)
    times: list[float] = []

    def note_the_time(body: dict) -> str:
        times.append(time.monotonic())
        return "fine"

    with chat_server(answer=note_the_time, faults=["429"], delay_s=0.02) as server:
        started = time.monotonic()
        completions = ask(config_for(server, concurrency=2), *map(str, range(12)))
    assert [c.error for c in completions] == [None] * 12
    # Only what the other worker had in flight came through; without a gate it would have gone on.
    assert sum(t - started < 0.25 for t in times) <= 3


def test_workers_that_were_told_one_delay_do_not_come_back_in_one_instant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)

    monkeypatch.setattr(generator_endpoint, "asyncio", SimpleNamespace(**vars(asyncio)))
    monkeypatch.setattr(generator_endpoint.asyncio, "sleep", sleep)
    monkeypatch.setattr(generator_endpoint, "random", random.Random(3))
    monkeypatch.setattr(generator_endpoint.Gate, "close", lambda self, delay_s: None)
    with chat_server(faults=["429"] * 4, retry_after="7") as server:
        completions = ask(config_for(server, concurrency=4), *"abcd")
    assert [c.error for c in completions] == [None] * 4
    assert len(set(delays)) == len(delays) == 4
    assert all(7 <= delay <= 7 * 1.2 for delay in delays)
    assert max(delays) - min(delays) > 0.5


def test_each_answer_is_handed_over_as_soon_as_it_is_there() -> None:
    seen: list[tuple] = []
    with chat_server() as server:
        config = config_for(server, concurrency=1)
        ask(
            config,
            "a",
            "b",
            on_answer=lambda row, c: seen.append((row, c.text, len(server.bodies))),
        )
    assert seen == [(0, "echo: a", 1), (1, "echo: b", 2)]


def test_no_more_requests_wait_in_memory_than_workers_take() -> None:
    """Bodies are made one by one as workers get free, not all at the start."""
    made: list[int] = []

    class Lazy(list):
        def __iter__(self):
            for number in range(50):
                made.append(number)
                yield [Message(role="user", content=str(number))]

        def __len__(self) -> int:
            return 50

    ahead: list[int] = []
    with (
        chat_server() as server,
        open_generator(config_for(server, concurrency=3), None) as made_by,
    ):
        made_by.generate(
            Lazy(),
            Sampling(),
            on_answer=lambda row, c: ahead.append(len(made) - len(server.bodies)),
        )
    assert len(ahead) == 50
    assert max(ahead) <= 3


def test_label_log_probs_come_only_when_asked_for() -> None:
    def logprobs(text: str) -> list[dict]:
        head, label = text.split(": ")
        top = [
            {"token": label, "logprob": -0.5},
            {"token": '"Unsafe', "logprob": -1.5},
            {"token": "{", "logprob": -3.0},
        ]
        return [
            {"token": head + ": ", "logprob": 0.0, "top_logprobs": []},
            {"token": label, "logprob": -0.5, "top_logprobs": top},
        ]

    with chat_server(logprobs=logprobs) as server:
        choices = ["Safe", "Unsafe", "Conditional"]
        (asked,) = ask(config_for(server, endpoint_logprobs=True), "x", choices=choices)
        (plain,) = ask(config_for(server), "x", choices=choices)
        first, second = server.bodies
    assert (asked.text, plain.text) == ("Safe", "Safe")
    assert asked.label_logps == {"Safe": -0.5, "Unsafe": -1.5}
    # Hand-worked: 12 tokens at most of e^-3 each would be 0.597; only 0.121 is left.
    left = 1 - math.exp(-0.5) - math.exp(-1.5) - math.exp(-3)
    assert asked.label_bounds == pytest.approx({"Conditional": math.log(left)})
    assert (plain.label_logps, plain.label_bounds) == (None, None)
    assert (first["logprobs"], first["top_logprobs"]) == (True, 20)
    assert "logprobs" not in second


CHOICE = '{"choices": [{"message": {"content": %s}, "finish_reason": "stop"%s}]%s}'


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        CHOICE % ('"x"', "", ', "usage": {"completion_tokens": 1e999}'),
        CHOICE % ('"x"', "", ', "usage": [1]'),
        CHOICE % ('"x"', ', "logprobs": [1]', ""),
        CHOICE % ('"x"', ', "logprobs": {"content": [{"tok": 1}]}', ""),
        CHOICE % ('"x"', ', "logprobs": {"content": [{"token": null}]}', ""),
    ],
)
def test_an_answer_of_another_layout_is_a_broken_one(body: str) -> None:
    with chat_server() as server:
        wanted = Wanted(config_for(server, endpoint_logprobs=True), 8, choices=["a", "b"])
    with pytest.raises(generator_endpoint.BrokenAnswer):
        generator_endpoint.read_completion(body, wanted)


def test_what_a_server_says_can_be_stored() -> None:
    body = CHOICE % ('"half \\ud800"', "", "")
    completion = generator_endpoint.read_completion(body, Wanted(GeneratorConfig(), 8))
    assert completion.text == "half ?"


def test_a_choice_of_a_thousand_brackets_is_an_error() -> None:
    answer = Completion("[" * 5_000, "stop", 1)
    assert "none of" in (unwrap_choice(answer, ["a"], 8).error or "")
