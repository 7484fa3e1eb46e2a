"""The votes of a judge on many rows: asked shard by shard, nothing twice.

Judged texts -> one ballot per row, its votes' completions in order, the greedy one first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from equilibrate_core.completions import Completion, Generator, OnAnswer
from equilibrate_core.endpoint_breaker import EndpointDown
from equilibrate_core.errors import StageError
from equilibrate_core.generator import resolved_fields
from equilibrate_core.generator_config import Sampling
from equilibrate_core.judge_confidence import CONTENT_FREE, calibrated, label_priors
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_failures import Failures
from equilibrate_core.judge_ledger import Ledger, answer_key
from equilibrate_core.judge_question import Parts, Question, is_verdict, render, verdict_schema
from equilibrate_core.progress import Progress
from equilibrate_core.records import Message

SHORTEST_CUT_CHARS = 100


@dataclass(frozen=True)
class Ballot:
    """All votes on one row."""

    votes: tuple[Completion, ...]
    """The first is the greedy one."""
    was_cut: bool


def poll(
    generator: Generator,
    question: Question,
    rows: Sequence[Parts],
    config: JudgeConfig,
    *,
    label: str,
    judge: str = "",
    ledger: Ledger | None = None,
) -> list[Ballot]:
    """Every row's votes by one judge, shard by shard; see `judge.ask`.

    Raises StageError as soon as the judge leaves more rows unscored than the config allows, or its
    server is down.
    """
    booth = Booth(generator, question, config, judge, ledger)
    try:
        return _poll(booth, rows, label)
    except EndpointDown as error:
        kept = "" if ledger is None else f"; {ledger.kept()}"
        raise StageError(f"{label}: {error}{kept}") from error


def _poll(booth: "Booth", rows: Sequence[Parts], label: str) -> list[Ballot]:
    generator, question, config = booth.generator, booth.question, booth.config
    failures = Failures(question, config, len(rows), label=label, judge=booth.judge)
    ballots: list[Ballot] = []
    priors: dict[frozenset[str], dict[str, float]] = {}
    with Progress(label, total=len(rows) * config.votes, unit="verdict") as progress:
        # A question is asked with or without some parts, and each form has priors of its own.
        forms = {frozenset(parts): parts for parts in reversed(rows)} if config.calibrate else {}
        for form, parts in forms.items():
            empty: list[Parts] = [dict.fromkeys(parts, text) for text in CONTENT_FREE]
            free = booth.answers(
                [fit_prompt(generator, question, p, config)[0] for p in empty], 0, None
            )
            priors[form] = label_priors(free, question.labels)
        for start in range(0, len(rows), config.shard_size):
            shard = rows[start : start + config.shard_size]
            fitted = [fit_prompt(generator, question, parts, config) for parts in shard]
            asked = [message for message, _ in fitted]
            votes = [
                booth.answers(asked, vote, progress, partial(failures.see, start, vote))
                for vote in range(config.votes)
            ]
            given_votes = zip(*votes, strict=True)
            for parts, (_, was_cut), given in zip(shard, fitted, given_votes, strict=True):
                if priors:
                    own = priors[frozenset(parts)]
                    given = tuple(calibrated(completion, own) for completion in given)
                ballots.append(Ballot(given, was_cut))
    return ballots


@dataclass(frozen=True)
class Booth:
    """Where one judge answers one question: verdicts that the ledger knows are not asked again."""

    generator: Generator
    question: Question
    config: JudgeConfig
    """With a ledger its `judge` is settled: what `auto` comes to decides which verdicts are its."""
    judge: str
    ledger: Ledger | None

    def answers(
        self,
        messages: Sequence[Message],
        vote: int,
        progress: Progress | None,
        heard: OnAnswer | None = None,
    ) -> list[Completion]:
        """The answers to `messages`, in order; `heard` is told each, new ones as they come too."""
        config = self.config
        sampling = Sampling(
            temperature=config.temperature if vote else 0.0,
            max_tokens=config.max_tokens,
            seed=config.seed + vote,
        )
        schema = verdict_schema(self.question, config.rationale_chars) if config.rationale else None
        choices = None if schema else self.question.labels
        asked = {**sampling.model_dump(), "schema": schema, "choices": choices}
        if config.judge.endpoint_url:  # two servers may call their models alike
            asked["url"] = config.judge.endpoint_url
        else:
            asked |= resolved_fields("judge", config.judge)
        if config.judge.endpoint_logprobs:  # an answer without them is another answer
            asked["logprobs"] = True
        if config.judge.endpoint_structured != "json_schema":
            asked["structured"] = config.judge.endpoint_structured
        if not config.judge.endpoint_send_sampling:
            asked["sampled"] = "as the server does"
        keys = [answer_key(self.judge, message.content, asked) for message in messages]
        known = self._known(keys)
        # A text that occurs twice is asked once.
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
        missing = sorted(first.values())
        asked_keys = [keys[row] for row in missing]
        keep = self.ledger.record(asked_keys, self._is_verdict) if self.ledger else None

        def on_answer(index: int, completion: Completion) -> None:
            if keep:
                keep(index, completion)
            if heard:
                heard(missing[index], completion)

        if progress:
            progress.skip(len(messages) - len(missing))
        given = self.generator.generate(
            [[messages[row]] for row in missing],
            sampling,
            schema=schema,
            choices=choices,
            on_done=progress.advance if progress else None,
            on_answer=on_answer,
        )
        new = dict(zip(asked_keys, given, strict=True))
        answers = [new[key] if key in new else known[key] for key in keys]
        if heard:  # known, repeated and unasked rows
            for row, completion in enumerate(answers):
                heard(row, completion)
        return answers

    def _known(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The verdicts among what the ledger holds; earlier versions kept other answers, too."""
        if self.ledger is None:
            return {}
        found = {key: self.ledger.known[key] for key in keys if key in self.ledger.known}
        return {key: answer for key, answer in found.items() if self._is_verdict(answer)}

    def _is_verdict(self, completion: Completion) -> bool:
        return is_verdict(self.question, completion, self.config)


def fit_prompt(
    generator: Generator, question: Question, parts: Parts, config: JudgeConfig
) -> tuple[Message, bool]:
    """The judge's prompt, cut until the generator can take it, and whether it was cut."""
    max_chars = config.max_text_chars
    while True:
        message, was_cut = render(question, parts, config, max_chars)
        if generator.fits([message], config.max_tokens) or max_chars <= SHORTEST_CUT_CHARS:
            return message, was_cut
        max_chars //= 2
