"""Reward and cost of every answer as verdicts, from the two scorers."""

import math
from collections.abc import Sequence
from pathlib import Path

from components.judge_responses.config import JudgeResponsesConfig
from equilibrate_core.records import Generation, Verdict, digest
from equilibrate_core.scorer import ScorerKind, load_scorer, score_responses


def score_verdicts(
    config: JudgeResponsesConfig,
    kind: ScorerKind,
    scorer_path: Path,
    scorer_digest: str,
    generations: Sequence[Generation],
) -> list[Verdict]:
    """One verdict per answer; those that the scorer cannot read stay unscored."""
    scorer = load_scorer(scorer_path)
    scores = score_responses(
        scorer,
        [generation.messages for generation in generations],
        [generation.response for generation in generations],
        [generation.finish_reason == "stop" for generation in generations],
        batch_size=config.scorer_batch_size,
        max_length=config.scorer_max_length,
    )
    judge = f"{kind} model {scorer_digest[:12]}"
    return [
        _verdict(kind, generation, score, judge, config.scorer_max_length)
        for generation, score in zip(generations, scores, strict=True)
    ]


def _verdict(
    kind: ScorerKind, generation: Generation, score: float, judge: str, max_length: int
) -> Verdict:
    unread = math.isnan(score)
    error = f"longer than scorer_max_length {max_length} tokens, or refused by the chat template"
    return Verdict(
        id=digest([generation.id, kind, judge]),
        generation_id=generation.id,
        kind=kind,
        score=None if unread else score,
        status="unscored" if unread else "scored",
        error=error if unread else None,
        judge=judge,
    )
