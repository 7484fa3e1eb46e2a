"""Config of assemble_dataset."""

from typing import Literal, Self

from pydantic import Field, model_validator

from equilibrate_core.config import Config, StageConfig


class Quotas(Config):
    """Pairs per harm category in train_pairs (Equilibrate README: 10k, 3k, 1k)."""

    EHD: int = Field(default=10_000, ge=0)
    """Explicitly harmful content without malicious intent."""
    IHD: int = Field(default=3_000, ge=0)
    """No explicit content, malicious or insinuating intent."""
    MHD: int = Field(default=1_000, ge=0)
    """Both."""


class GeneralPerCategory(Config):
    """General pairs per safety pair of each category (earlier version of the paper, mid-points)."""

    EHD: float = Field(default=25, ge=0)
    """1:30 to 1:20."""
    IHD: float = Field(default=75, ge=0)
    """1:100 to 1:50."""
    MHD: float = Field(default=150, ge=0)
    """1:200 to 1:100."""


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
    """General pairs per safety pair when `general_count` and `general_per_category` are None."""
    general_per_category: GeneralPerCategory | None = None
    """General pairs by category: the largest number that one of the categories asks for, so that
    each is at most that diluted; needs `general_count` None."""
    selection: Literal["fdc", "random", "all"] = "fdc"
    """`fdc` fills the quotas; `random` draws as many safety pairs blindly, `all` takes every one:
    the controls of what the categories and what the size did."""
    scorer_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the prompts whose pairs train the scorers."""
    eval_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts whose pairs are held out for evaluation."""
    near_duplicate_jaccard: float = Field(default=0.8, gt=0, le=1)
    """Prompts at least this alike count as one (Jaccard of character 5-grams; of Chinese, Japanese
    and Korean, of characters and pairs of them); below 0.8 some pairs are not found (at 0.7: one in
    seven)."""
    contamination_jaccard: float = Field(default=0.6, gt=0, le=1)
    """Prompts at least this like an evaluation prompt, or that contain one word for word that says
    enough to be told by (the rules are in docs/data.md), are left out of everything; so are longer
    conversations of which a user's turn is such a prompt. Below 0.6 some that are so alike are not
    found (at 0.5: one in five; at 0.4: every second)."""
    benchmarks_uri: str = ""
    """Folder or s3:// prefix of benchmarks (laid out as `score_benchmarks.data_uri`) whose
    questions count as evaluation prompts; a run fills in the one it scores by, unless that is
    `hub`. Empty: none are looked at, and the data card says 0. A folder that yields no question is
    an error."""
    examples_per_category: int = Field(default=3, ge=0)
    """Pairs of each category shown, masked, in the data card."""

    @model_validator(mode="after")
    def _one_general_mix(self) -> Self:
        if self.general_count is not None and self.general_per_category is not None:
            raise ValueError("give general_count or general_per_category, not both")
        if self.scorer_share + self.eval_share >= 1:
            raise ValueError("scorer_share and eval_share leave no prompt for train_pairs")
        return self
