"""A server that is down ends the stage after a number of rows, not after a share of them."""

from pathlib import Path

import pytest

from equilibrate_core import generator_endpoint
from equilibrate_core.completions import Completion
from equilibrate_core.endpoint_breaker import EndpointDown
from equilibrate_core.errors import StageError
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.judge import ask
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.judge_question import Question
from equilibrate_core.records import Message
from tests.chat_server import ChatServer, chat_server

QUESTION = Question("colour_v1", "colour", ("Red", "Blue"), "Name it. {{format}}\n{{judged}}\nNow.")
ENDLESS = 10_000


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_endpoint, "FIRST_DELAY_S", 0.001)


def config_for(url: str, **options: object) -> GeneratorConfig:
    settings = {"endpoint_model": "judge", "max_retries": 1, "max_failures_in_a_row": 5}
    return GeneratorConfig.model_validate(
        {"backend": "endpoint", "endpoint_url": url, "concurrency": 3, **settings, **options}
    )


def answers(config: GeneratorConfig, number: int) -> list[Completion]:
    rows = [[Message(role="user", content=str(i))] for i in range(number)]
    with open_generator(config, None) as generator:
        return generator.generate(rows, Sampling())


def test_a_server_that_is_gone_is_given_up_with_what_to_do() -> None:
    with chat_server(key=None) as server:
        url = server.url
    with pytest.raises(EndpointDown) as caught:
        answers(config_for(url), 1000)
    text = str(caught.value)
    assert f"{url} (model judge) is down: 5 rows in a row failed, each tried 2 times" in text
    assert "the last: cannot connect to" in text
    assert "bring the server back and run again, or raise max_failures_in_a_row" in text
    assert "\n" not in text


@pytest.mark.parametrize("fault", ["429", "500", "503", "hang", "drop", "garbage"])
def test_every_lasting_fault_counts_over_all_workers(fault: str) -> None:
    with chat_server(key=None, faults=[fault] * ENDLESS) as server:
        with pytest.raises(EndpointDown, match="5 rows in a row"):
            answers(config_for(server.url, timeout_s=0.3), 1000)
        # Five rows of two attempts, and what the other two workers had begun.
        assert 10 <= len(server.bodies) <= 14


def test_an_answer_in_between_starts_the_count_anew() -> None:
    faults = (["500"] * 4 + [""]) * 3
    with chat_server(key=None, faults=faults) as server:
        found = answers(config_for(server.url, concurrency=1, max_retries=0), 15)
    assert [c.error is None for c in found] == ([False] * 4 + [True]) * 3


def test_a_row_that_an_attempt_saved_is_no_failure() -> None:
    with chat_server(key=None, faults=["500", ""] * 20) as server:
        found = answers(config_for(server.url, concurrency=1, max_failures_in_a_row=1), 20)
    assert [c.error for c in found] == [None] * 20


def test_rows_that_the_server_refuses_do_not_say_that_it_is_down() -> None:
    with chat_server(key=None, faults=["400"] * 20) as server:
        found = answers(config_for(server.url), 20)
    assert all("answered 400" in (c.error or "") for c in found)


def test_zero_never_gives_up() -> None:
    with chat_server(key=None, faults=["500"] * ENDLESS) as server:
        found = answers(config_for(server.url, max_failures_in_a_row=0), 20)
        assert len(server.bodies) == 40
    assert all("after 2 attempts" in (c.error or "") for c in found)


def judge_all(server: ChatServer, ledger: Ledger, number: int) -> list[str | None]:
    config = JudgeConfig(
        judge=config_for(server.url, concurrency=1, max_retries=0),
        rationale=False,
        max_unscored_share=1.0,
        shard_size=2,
    )
    parts = [{"ANSWER": f"text {i}"} for i in range(number)]
    with open_generator(config.judge, None) as generator:
        judged = ask(generator, QUESTION, parts, config, label="judging", judge="j", ledger=ledger)
    return [judgement.label for judgement in judged]


def test_a_judge_is_given_up_across_shards_and_asks_nothing_twice_afterwards(
    tmp_path: Path,
) -> None:
    with chat_server(key=None, faults=[""] * 7 + ["500"] * ENDLESS) as server:
        with Ledger(tmp_path) as ledger, pytest.raises(StageError) as caught:
            judge_all(server, ledger, 100)
        assert len(server.bodies) == 12
        text = str(caught.value)
        assert text.startswith(f"judging: {server.url}")
        assert "the last: " in text and "answered 500" in text
        assert f"7 answers are kept in {tmp_path}, the next attempt asks the rest" in text
        server.faults.clear()
        with Ledger(tmp_path) as ledger:
            assert judge_all(server, ledger, 100) == ["Red"] * 100
        assert len(server.bodies) == 12 + 93
