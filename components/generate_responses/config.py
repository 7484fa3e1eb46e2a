"""Config of generate_responses."""

from pydantic import Field

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
    shard_size: int = Field(default=512, ge=1)
    """Prompts per shard: what an interrupted generation may have to do again."""
    shards_uri: str | None = None
    """Folder or s3:// prefix that keeps finished shards for a retry or another run of the same
    model and prompts; None keeps none. Nothing here removes them."""
    max_failed_share: float = Field(default=0.02, ge=0, le=1)
    """Share of prompts without an answer (too long, failed requests) above which the stage fails;
    fewer are counted, named in `unanswered.json`, and unscored in the report."""
