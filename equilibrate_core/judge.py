"""A judge: a question put to a Generator for every row; labels with votes come back.

A verdict is what parses and satisfies the schema. Everything else is unscored with its error, never
a label: a substring that looks like one proves nothing about what the judge meant.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from equilibrate_core.completions import Completion, Generator
from equilibrate_core.errors import StageError
from equilibrate_core.generator_config import Sampling
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_question import Parts, Question, read_verdict, render, verdict_schema
from equilibrate_core.progress import Progress
from equilibrate_core.records import Message

SHORTEST_CUT_CHARS = 100
ERRORS_SHOWN = 3


@dataclass(frozen=True)
class Judgement:
    """What the judge made of one row."""

    label: str | None
    """None when unscored."""
    rationale: str
    confidence: float | None
    """Share of the valid votes that agree with `label`; None with fewer than two."""
    votes: dict[str, int]
    """Valid votes by label."""
    error: str | None
    was_cut: bool
    """Whether a judged text was too long and lost its middle."""


def ask(
    generator: Generator,
    question: Question,
    rows: Sequence[Parts],
    config: JudgeConfig,
    *,
    label: str,
) -> list[Judgement]:
    """Judge every row; `label` names the work in the progress line.

    Raises StageError when more than `config.max_unscored_share` stay unscored.
    """
    fitted = [_fit(generator, question, parts, config) for parts in rows]
    conversations = [[message] for message, _ in fitted]
    schema = verdict_schema(question, config.rationale_chars) if config.rationale else None
    ballots: list[list[Completion]] = []
    with Progress(label, total=len(rows) * config.votes, unit="verdict") as progress:
        for vote in range(config.votes if rows else 0):
            sampling = Sampling(
                temperature=config.temperature if vote else 0.0,
                max_tokens=config.max_tokens,
                seed=config.seed + vote,
            )
            ballots.append(
                generator.generate(
                    conversations,
                    sampling,
                    schema=schema,
                    choices=None if schema else question.labels,
                    on_done=progress.advance,
                )
            )
    judgements = [
        count_votes(question, [ballot[row] for ballot in ballots], config, was_cut=was_cut)
        for row, (_, was_cut) in enumerate(fitted)
    ]
    check_unscored(judgements, config.max_unscored_share, label)
    return judgements


def count_votes(
    question: Question, completions: Sequence[Completion], config: JudgeConfig, *, was_cut: bool
) -> Judgement:
    """The judgement that the votes of one row add up to; the first of them is the greedy one.

    A tie goes to the greedy vote when it is among the tied, and is unscored otherwise.
    """
    valid: dict[int, tuple[str, str]] = {}
    errors: list[str] = []
    for index, completion in enumerate(completions):
        try:
            valid[index] = read_verdict(question, completion, config)
        except ValueError as error:
            errors.append(str(error))
    votes = Counter(label for label, _ in valid.values())
    if not valid:
        return Judgement(None, "", None, {}, errors[0], was_cut)
    tied = [label for label, number in votes.items() if number == max(votes.values())]
    winner = tied[0]
    if len(tied) > 1:
        if 0 not in valid or valid[0][0] not in tied:
            return Judgement(None, "", None, dict(votes), f"tied votes {dict(votes)}", was_cut)
        winner = valid[0][0]
    rationale = next(reason for label, reason in valid.values() if label == winner)
    confidence = votes[winner] / len(valid) if len(valid) > 1 else None
    return Judgement(winner, rationale, confidence, dict(votes), None, was_cut)


def check_unscored(judgements: Sequence[Judgement], max_share: float, label: str) -> None:
    """Raise StageError when the share of unscored judgements exceeds `max_share`."""
    errors = Counter(j.error or "" for j in judgements if j.label is None)
    if errors.total() <= max_share * len(judgements):
        return
    common = "; ".join(f"{number} x {error}" for error, number in errors.most_common(ERRORS_SHOWN))
    raise StageError(
        f"{label}: {errors.total()} of {len(judgements)} rows are unscored, more than "
        f"max_unscored_share {max_share:g} allows: {common}"
    )


def judge_name(generator: Generator, config: JudgeConfig, model_digest: str) -> str:
    """What records call the judge: the digest of its model, or the name its endpoint knows."""
    if config.judge.backend == "endpoint":
        return generator.name
    return f"model {model_digest[:12]}"


def _fit(
    generator: Generator, question: Question, parts: Parts, config: JudgeConfig
) -> tuple[Message, bool]:
    """The judge's prompt, cut until the generator can take it, and whether it was cut."""
    max_chars = config.max_text_chars
    while True:
        message, was_cut = render(question, parts, config, max_chars)
        if generator.fits([message], config.max_tokens) or max_chars <= SHORTEST_CUT_CHARS:
            return message, was_cut
        max_chars //= 2
