"""A judge: a question put to a Generator for every row; labels with votes come back.

A verdict is what parses and satisfies the schema. Everything else is unscored with its error, never
a label: a substring that looks like one proves nothing about what the judge meant.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from equilibrate_core.completions import Completion, Generator
from equilibrate_core.errors import StageError
from equilibrate_core.judge_ballots import Ballot, poll
from equilibrate_core.judge_confidence import label_probs
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_ledger import Ledger
from equilibrate_core.judge_question import Parts, Question, read_verdict

ERRORS_SHOWN = 3


@dataclass(frozen=True)
class Judgement:
    """What the judge made of one row."""

    label: str | None
    """None when unscored."""
    rationale: str
    confidence: float | None
    """Probability of `label` where the judge tells log-probs, mean over its valid votes; else the
    share of the valid votes that agree with it, None with fewer than two."""
    votes: dict[str, int]
    """Valid votes by label."""
    num_failed_votes: int
    """Votes that gave no verdict."""
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
    judge: str = "",
    ledger: Ledger | None = None,
) -> list[Judgement]:
    """Judge every row; `label` names the work in the progress line, `judge` who is asked.

    Answers that the ledger knows are not asked again. Raises StageError as soon as more than
    `config.max_unscored_share` of the rows are unscored.
    """
    ballots = poll(generator, question, rows, config, label=label, judge=judge, ledger=ledger)
    return decide(question, ballots, config, label)


def decide(
    question: Question, ballots: Sequence[Ballot], config: JudgeConfig, label: str
) -> list[Judgement]:
    """Every row's judgement from its votes. Raises StageError when too many stay unscored."""
    judgements = [
        count_votes(question, ballot.votes, config, was_cut=ballot.was_cut) for ballot in ballots
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
        return Judgement(None, "", None, {}, len(errors), errors[0], was_cut)
    tied = [label for label, number in votes.items() if number == max(votes.values())]
    winner = tied[0]
    if len(tied) > 1:
        if 0 not in valid or valid[0][0] not in tied:
            tie = f"tied votes {dict(votes)}"
            return Judgement(None, "", None, dict(votes), len(errors), tie, was_cut)
        winner = valid[0][0]
    rationale = next(reason for label, reason in valid.values() if label == winner)
    confidence = _confidence(question, [completions[index] for index in valid], winner)
    if confidence is None and len(valid) > 1:
        confidence = votes[winner] / len(valid)
    return Judgement(winner, rationale, confidence, dict(votes), len(errors), None, was_cut)


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


def _confidence(question: Question, completions: Sequence[Completion], winner: str) -> float | None:
    probs = [label_probs(completion, question.labels) for completion in completions]
    found = [p[winner] for p in probs if p is not None]
    return fmean(found) if found and len(found) == len(probs) else None
