"""Config of generate_responses."""

from typing import Self

from pydantic import Field, model_validator

from equilibrate_core.config import StageConfig
from equilibrate_core.generator_config import GeneratorConfig, OwnModelGenerator, Sampling


class GenerateResponsesConfig(StageConfig):
    """Which evaluation prompts one model answers, and how."""

    model_name: str = Field(default="base", min_length=1)
    """Name of the arm the answers belong to: base, aligned, … In a run every task has its own."""
    suites: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Evaluation suites to answer; None for all. One that no prompt belongs to is an error."""
    max_prompts_per_suite: int | None = Field(default=None, ge=1)
    """Prompts of each suite, the first in order of their ids, equal for all arms; None for all."""
    generator: OwnModelGenerator = GeneratorConfig()
    """Where the model runs. Not `endpoint`: base, aligned and all other models share this section,
    and a server would answer for each of them."""
    sampling: Sampling = Sampling()
    """How answers are drawn; greedy by default. `sampling.seed` is added to the stage's seed."""
    num_shards: int = Field(default=1, ge=1, le=8)
    """Tasks that share out every model's prompts and answer them side by side, each with an engine
    and accelerators of its own; a further task puts their answers together. The answers' order,
    ids and seeds are those of one task. Fixed when a pipeline is compiled. 8 at most, because kfp
    names every input; an engine itself may span accelerators (generator.tensor_parallel_size)."""
    shard: int = Field(default=0, ge=0)
    """Which of these parts is answered, from 0. In a run every task has its own."""
    shard_size: int = Field(default=512, ge=1)
    """Prompts that one task finishes and keeps at a time: what an interrupted generation may have
    to do again. It has nothing to do with `num_shards`."""
    shards_uri: str | None = None
    """Folder or s3:// prefix that keeps finished shards for a retry or another run of the same
    model and prompts; None keeps none. Nothing here removes them."""
    max_failed_share: float = Field(default=0.02, ge=0, le=1)
    """Share of prompts without an answer (too long, failed requests) above which the stage fails;
    fewer are counted, named in `unanswered.json`, and unscored in the report."""

    @model_validator(mode="after")
    def _shard_is_one_of_them(self) -> Self:
        if self.shard >= self.num_shards:
            raise ValueError(
                f"shard {self.shard} is none of num_shards {self.num_shards}; they count from 0"
            )
        return self
