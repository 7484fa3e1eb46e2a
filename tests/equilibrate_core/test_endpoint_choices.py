"""Short verdicts of a server end within their tokens, however its tokenizer cuts them."""

import pytest

from equilibrate_core.endpoint_choices import choice_tokens
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.judge import ask
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_question import Question
from equilibrate_core.records import Message
from tests.chat_server import ChatServer, chat_server

LONG = ("Refusal with a long explanation", "Compliance without reservation", "不能回答这个问题")


def choose(server: ChatServer, choices: tuple[str, ...] = LONG, max_tokens: int = 8):
    config = GeneratorConfig(
        backend="endpoint", endpoint_url=server.url, endpoint_model="judge", max_retries=0
    )
    with open_generator(config, None) as generator:
        rows = [[Message(role="user", content="x")]]
        return generator.generate(rows, Sampling(max_tokens=max_tokens), choices=choices)[0]


def test_the_tokens_of_a_choice_are_counted_as_if_each_were_a_byte() -> None:
    assert choice_tokens(["EHD"]) == len('{"answer": "EHD"}') + 16 == 33
    assert choice_tokens(["a", "EHD"]) == 33
    assert choice_tokens(["面"]) == len('{"answer": "\\u9762"}') + 16


@pytest.mark.parametrize("label", LONG)
def test_a_label_of_many_tokens_is_not_cut(label: str) -> None:
    with chat_server(key=None, answer=lambda _: f'{{"answer": "{label}"}}') as server:
        server.chars_per_token = 1
        completion = choose(server)
    assert (completion.text, completion.error) == (label, None)


def test_a_judge_asked_for_bare_verdicts_of_eight_tokens_gives_whole_ones() -> None:
    question = Question("x_v1", "kind", LONG, "Name it. {{format}}\n{{judged}}\nNow.")
    with chat_server(key=None, chars_per_token=1) as server:
        endpoint = {"backend": "endpoint", "endpoint_url": server.url, "endpoint_model": "judge"}
        config = JudgeConfig.model_validate(
            {"judge": endpoint, "rationale": False, "max_tokens": 8, "max_unscored_share": 0}
        )
        with open_generator(config.judge, None) as generator:
            (judgement,) = ask(generator, question, [{"ANSWER": "x"}], config, label="t")
    assert judgement.label == LONG[0]


def test_more_tokens_than_a_label_needs_stay_allowed() -> None:
    with chat_server(key=None) as server:
        choose(server, max_tokens=500)
        assert server.bodies[0]["max_tokens"] == 500


def test_a_verdict_that_is_cut_nevertheless_says_what_to_raise() -> None:
    with chat_server(key=None, answer=lambda _: " " * 999 + "{", chars_per_token=1) as server:
        completion = choose(server, ("Yes", "No"))
    assert "did not end within 33 tokens; raise max_tokens" in (completion.error or "")


def test_a_model_that_is_cut_while_it_thinks_says_what_to_raise() -> None:
    with chat_server(key=None, answer=lambda _: None, finish_reason="length") as server:
        completion = choose(server, ("Yes", "No"))
    assert "did not end within 33 tokens; raise max_tokens" in (completion.error or "")
