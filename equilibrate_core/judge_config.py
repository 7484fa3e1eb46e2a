"""The config of everything that judges: the judge, its votes, the share of failures allowed."""

from pydantic import Field

from equilibrate_core.config import StageConfig
from equilibrate_core.generator_config import GeneratorConfig


class JudgeConfig(StageConfig):
    """How a judge is asked."""

    judge: GeneratorConfig = GeneratorConfig()
    """Where the judge model runs."""
    votes: int = Field(default=1, ge=1, le=15)
    """Times each question is asked. The first vote is greedy, further ones are drawn at
    `temperature`; the commonest answer wins, a tie goes to the greedy vote if it is part of it and
    leaves the row unscored otherwise."""
    temperature: float = Field(default=0.7, gt=0, le=2)
    """Sampling temperature of the second and later votes (self-consistency, arXiv 2203.11171)."""
    rationale: bool = True
    """Let the judge give a reason before its verdict; False takes the bare verdict, many times
    faster and somewhat less accurate."""
    rationale_chars: int = Field(default=240, ge=20, le=4000)
    """Longest reason in characters."""
    max_tokens: int = Field(default=192, ge=8)
    """Longest verdict in tokens; one that does not end by then is unscored. English takes about
    one token for four characters of the reason, Chinese up to two for one."""
    max_text_chars: int = Field(default=6000, ge=200)
    """Characters kept of each judged text; longer ones are cut in the middle and counted."""
    max_unscored_share: float = Field(default=0.05, ge=0, le=1)
    """Share of questions without a valid verdict above which the stage fails."""
