"""Config of assemble_dataset."""

from typing import Literal

from pydantic import Field

from equilibrate_core.config import Config, StageConfig


class Quotas(Config):
    """Pairs per harm category in train_pairs (Equilibrate README: 10k, 3k, 1k)."""

    EHD: int = Field(default=10_000, ge=0)
    """Explicitly harmful content without malicious intent."""
    IHD: int = Field(default=3_000, ge=0)
    """No explicit content, malicious or insinuating intent."""
    MHD: int = Field(default=1_000, ge=0)
    """Both."""


class AssembleDatasetConfig(StageConfig):
    """How FDC chooses what the model learns from."""

    quotas: Quotas = Quotas()
    """Pairs per category; a shortage is reported."""
    strict_quotas: bool = False
    """Fail when a quota cannot be filled."""
    label: Literal["judge", "gold", "gold_else_judge"] = "judge"
    """Whose category counts: the judge's, the source's own, or the source's where it has one."""
    general_count: int | None = Field(default=None, ge=0)
    """General pairs (category NONE) to mix in; None takes `general_ratio`."""
    general_ratio: float = Field(default=1.0, ge=0)
    """General pairs per safety pair when `general_count` is None."""
    selection: Literal["fdc", "random"] = "fdc"
    """`fdc` fills the quotas; `random` draws as many safety pairs blindly, the control arm."""
    scorer_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the prompts whose pairs train the scorers."""
    eval_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts whose pairs are held out for evaluation."""
    near_duplicate_jaccard: float = Field(default=0.8, gt=0, le=1)
    """Prompts at least this alike (Jaccard of character 5-grams) count as one."""
    contamination_jaccard: float = Field(default=0.6, gt=0, le=1)
    """Prompts at least this like an evaluation prompt are left out of everything."""
