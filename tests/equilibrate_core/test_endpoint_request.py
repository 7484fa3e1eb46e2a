"""Servers that refuse a part of the usual request can be asked in words that they know."""

from typing import Any

import pytest
from pydantic import ValidationError

from equilibrate_core.endpoint_choices import unfenced
from equilibrate_core.errors import StageError
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.judge import Judgement, ask
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_question import Question
from equilibrate_core.records import Message
from tests.chat_server import KNOWN_FIELDS, ChatServer, chat_server

QUESTION = Question("colour_v1", "colour", ("Red", "Blue"), "Name it. {{format}}\n{{judged}}\nNow.")
BARE = frozenset({"model", "messages", "max_tokens"})
VERDICT = '{"rationale": "as roses are", "colour": "Red"}'


def judge(server: ChatServer, *, rationale: bool, **endpoint: Any) -> Judgement:
    settings = {"endpoint_url": server.url, "endpoint_model": "judge", "max_retries": 0}
    config = JudgeConfig.model_validate(
        {
            "judge": {"backend": "endpoint", **settings, **endpoint},
            "rationale": rationale,
            "max_unscored_share": 0,
        }
    )
    with open_generator(config.judge, None) as generator:
        return ask(generator, QUESTION, [{"ANSWER": "a rose"}], config, label="t")[0]


def obedient(body: dict[str, Any]) -> str:
    """A model that follows the prompt's own words about the form."""
    wants_json = "one JSON object" in body["messages"][-1]["content"]
    return VERDICT if wants_json else "Red"


SERVERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "knows max_completion_tokens only": (
        {"known_fields": KNOWN_FIELDS - {"max_tokens"} | {"max_completion_tokens"}},
        {"endpoint_token_field": "max_completion_tokens"},
    ),
    "takes no sampling": (
        {"known_fields": KNOWN_FIELDS - {"temperature", "top_p", "seed"}},
        {"endpoint_send_sampling": False},
    ),
    "takes JSON of any form": (
        {"response_format": "json_object", "answer": obedient},
        {"endpoint_structured": "json_object"},
    ),
    "knows nothing but messages": (
        {"known_fields": BARE, "answer": obedient},
        {"endpoint_structured": "none", "endpoint_send_sampling": False},
    ),
    "is vllm": (
        {
            "known_fields": KNOWN_FIELDS - {"response_format"} | {"structured_outputs"},
            "answer": obedient,
        },
        {"endpoint_structured": "vllm"},
    ),
}


@pytest.mark.parametrize("rationale", [False, True])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_of_its_own_mind_can_judge(kind: str, rationale: bool) -> None:
    server_options, config = SERVERS[kind]
    with chat_server(key=None, **server_options) as server:
        assert judge(server, rationale=rationale, **config).label == "Red"


@pytest.mark.parametrize(
    ("kind", "rationale"),
    [(kind, rationale) for kind in SERVERS for rationale in (False, True)],
)
def test_the_usual_request_is_refused_by_these(kind: str, rationale: bool) -> None:
    with (
        chat_server(key=None, **SERVERS[kind][0]) as server,
        pytest.raises(StageError, match="answered 400"),
    ):
        judge(server, rationale=rationale)


def test_vllm_is_asked_for_one_of_the_words_or_the_whole_schema() -> None:
    server_options, config = SERVERS["is vllm"]
    with chat_server(key=None, **server_options) as server:
        judge(server, rationale=False, **config)
        judge(server, rationale=True, **config)
        words, schema = (body["structured_outputs"] for body in server.bodies)
    assert words == {"choice": ["Red", "Blue"]}
    assert schema["json"]["properties"]["colour"]["enum"] == ["Red", "Blue"]
    assert schema["json"]["properties"]["rationale"]["maxLength"] == 240


def test_a_bare_words_probability_is_that_of_its_first_token() -> None:
    def logprobs(text: str) -> list[dict[str, Any]]:
        top = [{"token": "R", "logprob": -0.5}, {"token": "B", "logprob": -1.5}]
        return [{"token": "R", "logprob": -0.5, "top_logprobs": top}, {"token": "ed"}]

    server_options, config = SERVERS["is vllm"]
    with chat_server(key=None, logprobs=logprobs, **server_options) as server:
        judgement = judge(server, rationale=False, endpoint_logprobs=True, **config)
    # Hand-worked: e^-0.5 / (e^-0.5 + e^-1.5) = 1 / (1 + e^-1).
    assert judgement.confidence == pytest.approx(0.7310585786)


@pytest.mark.parametrize("structured", ["json_object", "none"])
@pytest.mark.parametrize(
    ("rationale", "answer"),
    [
        (True, f"Sure: {VERDICT}"),
        (True, '{"rationale": "r", "colour": "Purple"}'),
        (True, '{"rationale": "r", "colour": "Red", "more": 1}'),
        (False, "Red, I think"),
        (False, '{"answer": "Red"}'),
    ],
)
def test_what_no_grammar_held_is_checked_here(
    structured: str, rationale: bool, answer: str
) -> None:
    server = chat_server(key=None, response_format="json_object", answer=lambda _: answer)
    with server as running, pytest.raises(StageError, match="unscored"):
        judge(running, rationale=rationale, endpoint_structured=structured)


def test_a_verdict_in_a_markdown_fence_is_read_where_no_grammar_holds_the_model() -> None:
    answer = f"```json\n{VERDICT}\n```"
    with chat_server(key=None, answer=lambda _: answer) as server:
        assert judge(server, rationale=True, endpoint_structured="none").label == "Red"


def test_only_a_fence_around_all_of_a_text_is_taken_off() -> None:
    assert unfenced("```\nRed\n```") == "Red"
    for text in ("```json\n{}\n``` or\n```json\n[]\n```", "so:\n```\nRed\n```", "```Red```", "Red"):
        assert unfenced(text) == text


def test_a_greeting_counts_its_tokens_in_the_servers_own_words() -> None:
    server_options, config = SERVERS["knows max_completion_tokens only"]
    with chat_server(key=None, refused="flagged", **server_options) as server:
        settings = {"endpoint_url": server.url, "endpoint_model": "judge", **config}
        made = GeneratorConfig.model_validate({"backend": "endpoint", **settings})
        with open_generator(made, None) as generator:
            rows = [[Message(role="user", content=text)] for text in ("flagged", "fine")]
            refused, fine = generator.generate(rows, Sampling())
    assert "403" in (refused.error or "")
    assert fine.text == "echo: fine"


def test_an_unknown_way_to_ask_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValidationError, match="json_schema"):
        GeneratorConfig.model_validate({"endpoint_structured": "grammar"})
