"""Generation by an OpenAI-compatible server: bounded concurrency, retries, errors kept per row."""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import openai

from equilibrate_core.completions import (
    Completion,
    Conversation,
    JsonSchema,
    OnAnswer,
    OnDone,
    failed,
    in_order,
)
from equilibrate_core.endpoint_breaker import Breaker
from equilibrate_core.endpoint_choices import MALFORMED, cut_answer
from equilibrate_core.endpoint_request import Wanted
from equilibrate_core.errors import ConfigError
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.records import storable_text

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0
FATAL = {
    401: "the key is missing or wrong",
    403: "the key may not use this model",
    404: "there is no such path or model",
}
OVERLOADED = (429, 503)


class EndpointGenerator:
    """A remote model as a generator."""

    def __init__(self, config: GeneratorConfig) -> None:
        assert config.endpoint_url and config.endpoint_model  # the config's own validator
        self.name = config.endpoint_model
        self.config = config
        self.key = _api_key(config)
        self.may_use_model = False  # known once the server has answered anything
        self.breaker = Breaker(config)
        # One line per request is noise among progress lines.
        for name in ("httpx", "httpx2"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def fits(self, conversation: Conversation, max_tokens: int) -> bool:
        """True: the server's tokenizer is not known here."""
        return True

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        schema: JsonSchema | None = None,
        choices: Sequence[str] | None = None,
        on_done: OnDone | None = None,
        on_answer: OnAnswer | None = None,
    ) -> list[Completion]:
        """Answer every conversation; see `Generator.generate`.

        Choices get the tokens they need, should `sampling.max_tokens` be fewer. Raises ConfigError
        when the server refuses the key, the path or the model, EndpointDown when it is away.
        """
        wanted = Wanted.of(self.config, sampling.max_tokens, schema, choices)
        bodies = (wanted.body(conversation, sampling) for conversation in conversations)
        done: dict[int, Completion] = {}

        def finish(row: int, completion: Completion) -> None:
            done[row] = wanted.read(completion)
            if on_answer:
                on_answer(row, done[row])
            if on_done:
                on_done(1)

        asyncio.run(self._all(wanted, bodies, finish))
        return in_order(len(conversations), done)

    async def _all(
        self, wanted: Wanted, bodies: Iterable[dict[str, Any]], finish: OnAnswer
    ) -> None:
        """Ask for every body with `concurrency` workers; each takes the next when it is free."""
        waiting = iter(enumerate(bodies))
        gate = Gate()
        client = openai.AsyncOpenAI(
            base_url=self.config.endpoint_url,
            api_key=self.key or "none",
            max_retries=0,  # ours below also covers broken answers
            timeout=self.config.timeout_s,
        )

        async def work() -> None:
            for row, body in waiting:
                finish(row, await self._with_retries(client, wanted, body, gate))

        async with client:
            await asyncio.gather(*(work() for _ in range(self.config.concurrency)))

    async def _with_retries(
        self, client: openai.AsyncOpenAI, wanted: Wanted, body: dict[str, Any], gate: "Gate"
    ) -> Completion:
        problem = ""
        for attempt in range(self.config.max_retries + 1):
            asked_delay_s = 0.0
            await gate.passed()
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    # Raw, since the client would turn a broken body into objects of empty fields.
                    raw = await client.chat.completions.with_raw_response.create(**body)
                self.may_use_model = True
                completion = read_completion(raw.http_response.text, wanted)
                self.breaker.answered()
                return completion
            except BrokenAnswer as error:
                problem = self._without_key(str(error))
            except (TimeoutError, openai.APITimeoutError):
                problem = f"no answer within {self.config.timeout_s:g} s"
            except openai.APIConnectionError as error:
                problem = (
                    f"cannot connect to {self.config.endpoint_url}: {error.__cause__ or error}"
                )
            except openai.APIStatusError as error:
                if error.status_code == 403 and not self.may_use_model:
                    self.may_use_model = await self._answers_a_greeting(client)
                problem = self._refusal(error)
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    return failed(problem)
                asked_delay_s = _retry_after_s(error.response.headers.get("retry-after"))
                if error.status_code in OVERLOADED:
                    gate.close(max(asked_delay_s, backoff_s(attempt)))
            if attempt < self.config.max_retries:
                await asyncio.sleep(max(spread_s(asked_delay_s), backoff_s(attempt)))
        self.breaker.failed(problem)
        return failed(f"{problem} (after {self.config.max_retries + 1} attempts)")

    async def _answers_a_greeting(self, client: openai.AsyncOpenAI) -> bool:
        """Whether a 403 is about that row's text, which moderating gateways refuse alone."""
        greeting = {"role": "user", "content": "Hello"}
        body: dict[str, Any] = {"model": self.config.endpoint_model, "messages": [greeting]}
        body[self.config.endpoint_token_field] = 16
        for attempt in range(self.config.max_retries + 1):
            try:
                await client.chat.completions.with_raw_response.create(**body)
            except openai.APIStatusError as error:
                return error.status_code not in FATAL
            except openai.APIConnectionError:  # says nothing of the key
                await asyncio.sleep(backoff_s(attempt))
            else:
                return True
        return False

    def _refusal(self, error: openai.APIStatusError) -> str:
        status = error.status_code
        where = f"{self.config.endpoint_url} (model {self.config.endpoint_model})"
        if status in FATAL and not (status == 403 and self.may_use_model):
            key = f"${self.config.api_key_env}" if self.config.api_key_env else "none configured"
            raise ConfigError(f"{where} answered {status}: {FATAL[status]}; API key: {key}")
        text = self._without_key(error.response.text.strip().replace("\n", " "))
        return f"{where} answered {status}: {text[:200]}"

    def _without_key(self, text: str) -> str:
        # Some servers repeat what they were sent.
        return text.replace(self.key, "***") if self.key else text


class Gate:
    """Where all workers wait while the server says that it has too much to do."""

    def __init__(self) -> None:
        self.opens_at = 0.0

    def close(self, delay_s: float) -> None:
        """Hold every worker for `delay_s` seconds from now, or longer if one said so before."""
        self.opens_at = max(self.opens_at, time.monotonic() + delay_s)

    async def passed(self) -> None:
        """Return when the gate is open."""
        while (left_s := self.opens_at - time.monotonic()) > 0:
            await asyncio.sleep(spread_s(left_s))


class BrokenAnswer(Exception):
    """A 200 whose body is not a completion; worth another attempt."""


def read_completion(body: str, wanted: Wanted) -> Completion:
    """Completion from the JSON body of an answer. Raises BrokenAnswer when it holds none."""
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
        num_tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    except MALFORMED as error:
        raise BrokenAnswer(f"the answer is not a chat completion: {body[:80]!r}") from error
    if reason == "length" and text is None:  # a model that was still thinking
        return failed(cut_answer(wanted.max_tokens, ""))
    if reason not in ("stop", "length") or not isinstance(text, str):
        return failed(f"the endpoint gave no text: finish_reason {reason!r}")
    completion = Completion(storable_text(text), reason, num_tokens)
    try:
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        return wanted.with_label_logps(completion, tokens)
    except MALFORMED as error:
        raise BrokenAnswer(f"the answer's log-probabilities are malformed: {error!r}") from error


def backoff_s(attempt: int) -> float:
    """Seconds before the next attempt: doubling, with jitter so that clients spread out."""
    return min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S) * random.uniform(0.5, 1.0)


def spread_s(delay_s: float) -> float:
    """A delay that others were told, too: not all in one instant, the next overload."""
    return delay_s * random.uniform(1.0, 1.2)


def _retry_after_s(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), LONGEST_DELAY_S)
    except ValueError:  # the HTTP date form
        return 0.0


def _api_key(config: GeneratorConfig) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"environment variable {config.api_key_env} (api_key_env) is not set; "
            f"it must hold the key of {config.endpoint_url}"
        )
    return key
