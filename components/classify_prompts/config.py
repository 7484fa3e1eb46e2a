"""Config of classify_prompts."""

from typing import Literal

from pydantic import Field, model_validator

from equilibrate_core.config import Config
from equilibrate_core.generator_config import GeneratorConfig
from equilibrate_core.judge_config import JudgeConfig


class CategoryJudge(GeneratorConfig):
    """Who sorts the prompts."""

    kind: Literal["llm", "classifier"] = "llm"
    """`llm` asks a language model about every prompt. `classifier` trains a linear head on the
    embeddings of `judge_model` with a labelled seed and labels the rest with it: thousands of
    times cheaper, and better than a small model's own verdicts."""


class ClassifierConfig(Config):
    """How `judge.kind: classifier` learns."""

    seed_labels: Literal["gold", "llm"] = "gold"
    """Whose labels it learns from: `gold` those that came with the prompts, `llm` those that the
    judge, asked as configured here, gives to the seed."""
    seed_size: int = Field(default=5000, ge=8)
    """Prompts in the seed at most; drawn by hash of their id, so that order does not matter."""
    held_out_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the prompts with gold labels that no seed contains, nor anything like them; they
    measure the head."""
    depth: float = Field(default=0.5, gt=0, le=1)
    """Share of the model's layers that are run; meaning is richest in the middle, and half the
    layers cost half the time."""
    max_length: int = Field(default=256, ge=8)
    """Tokens read of each prompt, its first ones."""
    batch_size: int = Field(default=32, ge=1)
    """Prompts embedded at once."""
    l2: tuple[float, ...] = Field(default=(0.0001, 0.001, 0.01), min_length=1)
    """Inverse strengths C of the head's L2 penalty to choose from by cross-validated macro-F1."""


class ClassifyPromptsConfig(JudgeConfig):
    """How prompts are sorted into EHD, IHD, MHD and NONE."""

    judge: CategoryJudge = CategoryJudge()
    """Who sorts the prompts, and where it runs."""
    other_judges: tuple[GeneratorConfig, ...] = ()
    """Further judges; each casts `votes` votes of its own, and the commonest answer of all wins.
    A tie goes to the first vote of `judge` if it is part of it and leaves the row unscored
    otherwise. In-process judges all run `judge_model`, so at most one of all can be that."""
    prompt: Literal["category_v1", "category_zh_v1"] = "category_v1"
    """Prompt file put to the judge: definitions and rules in English or in Chinese, with worked
    examples in both languages. Records name it."""
    classifier: ClassifierConfig = ClassifierConfig()
    """How `judge.kind: classifier` learns; `llm` ignores it."""

    @property
    def asks_judges(self) -> bool:
        """Whether any prompt is put to a judge; a classifier may learn from gold labels alone."""
        return self.judge.kind == "llm" or self.classifier.seed_labels == "llm"

    @model_validator(mode="after")
    def _judges_differ(self) -> "ClassifyPromptsConfig":
        judges = [(j.endpoint_url, j.endpoint_model) for j in (self.judge, *self.other_judges)]
        if len(set(judges)) < len(judges):
            raise ValueError(
                "other_judges: the same judge twice would count its votes twice; raise votes, or "
                "name another endpoint"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_labels(self) -> "ClassifyPromptsConfig":
        if self.other_judges and not self.asks_judges:
            raise ValueError("other_judges are never asked when classifier.seed_labels is gold")
        return self
