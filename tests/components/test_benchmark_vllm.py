"""How answers are taken from vllm: those of one token from one reading of their question."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from components.score_benchmarks.vllm_model import Reading, ReadsQuestionsOnce, Request

MAX_LENGTH = 8
ODDS = {1: -0.5, 2: -1.5, 3: -2.5}
"""Log-probability of each answer of one token, the same behind every question."""


class HarnessModel:
    """Where the harness reads context and answer together; no engine behind it."""

    max_length = MAX_LENGTH

    def __init__(self) -> None:
        self.read: list[list[int]] = []
        self.asked: list[list[int]] = []
        self.cached: list[tuple[str, Any, Reading]] = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *given: self.cached.append(given))

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool
    ) -> list[Reading]:
        self.read += [context + answer for _, context, answer in requests]
        return [(-10.0 * len(answer), False) for _, _, answer in requests]

    def _model_generate(
        self, requests: list[list[int]], generate: bool, sampling_params: list[Any]
    ) -> list[Any]:
        assert generate
        self.asked += requests
        return [self._answer(params) for params in sampling_params]

    def _answer(self, params: Any) -> Any:
        assert (params.temperature, params.max_tokens) == (0, 1)
        logps = {token: SimpleNamespace(logprob=ODDS[token]) for token in params.logprob_token_ids}
        likeliest = max(ODDS, key=ODDS.__getitem__)
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=[likeliest], logprobs=[{likeliest: None} | logps])]
        )


class Model(ReadsQuestionsOnce, HarnessModel):
    """The two together, as with the real one."""


def test_a_question_is_read_once_for_all_of_its_answers_of_one_token() -> None:
    model = Model()
    questions = ([7, 8], [9])
    requests = [(f"{q}{a}", q, [a]) for q in questions for a in ODDS]
    assert model._loglikelihood_tokens(requests) == 2 * [(-0.5, True), (-1.5, False), (-2.5, False)]
    assert (model.asked, model.read) == ([[7, 8], [9]], [])
    assert model.cached[1] == ("loglikelihood", "[7, 8]2", (-1.5, False))
    assert len(model.cached) == len(requests)


def test_longer_answers_are_read_as_the_harness_does_and_all_keep_their_places() -> None:
    model = Model()
    requests = [("a", [7], [4, 5]), ("b", [7], [2]), ("c", [8], [4, 5, 6]), ("d", [8], [1])]
    assert model._loglikelihood_tokens(requests, True) == [
        (-20.0, False), (-1.5, False), (-30.0, False), (-0.5, True),
    ]  # fmt: skip
    assert (model.asked, model.read) == ([[7], [8]], [[7, 4, 5], [8, 4, 5, 6]])


def test_a_question_that_is_too_long_loses_what_it_loses_in_the_harness() -> None:
    model = Model()
    long = list(range(10, 30))
    model._loglikelihood_tokens([("a", long, [1]), ("b", long[-6:], [2]), ("c", long[-5:], [3])])
    # The harness keeps max_length - 1 tokens of context and answer together.
    assert model.asked == [long[-6:], long[-5:]]


def test_nothing_is_asked_when_no_answer_has_one_token() -> None:
    model = Model()
    assert model._loglikelihood_tokens([("a", [7], [4, 5])]) == [(-20.0, False)]
    assert model.asked == []
