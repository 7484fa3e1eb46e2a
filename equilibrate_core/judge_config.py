"""The config of everything that judges: the judge, its votes, the share of failures allowed."""

from pydantic import Field, model_validator

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
    one token for four characters of the reason, Chinese up to two for one. With `rationale: false`
    an endpoint gets as many as the longest label needs, should these be fewer."""
    calibrate: bool = False
    """Divide the label probabilities by those the judge gives to texts without content (contextual
    calibration, arXiv 2102.09690), which takes away its leaning to one label. Needs label
    log-probabilities, `rationale: false` and one vote."""
    shard_size: int = Field(default=4096, ge=1)
    """Rows put to the judge at once; bounds the memory their prompts take. In-process vllm hands
    over a shard's answers together: a run that is killed asks at most one shard of it again."""
    progress_dir: str | None = None
    """Folder for the answers of an unfinished run, so that the next attempt asks for the missing
    ones only: a mounted volume where a retried task finds an empty disk. None keeps them beside
    the stage's output."""
    max_text_chars: int = Field(default=6000, ge=200)
    """Characters kept of each judged text; longer ones are cut in the middle and counted."""
    max_unscored_share: float = Field(default=0.05, ge=0, le=1)
    """Share of questions without a valid verdict above which the stage fails, as soon as one judge
    or all of them together leave so many."""

    @model_validator(mode="after")
    def _calibration_has_its_log_probs(self) -> "JudgeConfig":
        if self.calibrate and (self.rationale or self.votes > 1):
            raise ValueError("calibrate needs rationale: false and votes: 1")
        return self
