"""Config of build_pairs."""

from pydantic import Field

from equilibrate_core.config import StageConfig
from equilibrate_core.generator_config import GeneratorConfig, OwnModelGenerator, Sampling
from equilibrate_core.records import HARM_CATEGORIES, Category


class BuildPairsConfig(StageConfig):
    """How prompts without answers become pairs."""

    categories: tuple[Category, ...] = Field(default=HARM_CATEGORIES, min_length=1)
    """Categories of the prompts to answer; on harmless ones a contrast in safety is rare."""
    prompts_per_category: int = Field(default=500, ge=1)
    """At most this many prompts of each, chosen by the seed."""
    num_samples: int = Field(default=8, ge=2)
    """Answers sampled per prompt."""
    generator: OwnModelGenerator = GeneratorConfig()
    """Where the base model runs. Not `endpoint`: the answers must be the base model's own."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=256)
    """How answers are drawn; its seed and the stage's are added, each sample has its own. Answers
    that `max_tokens` cut are left out and counted."""
    batch_size: int = Field(default=16, ge=1)
    """Answers scored at once."""
    max_length: int = Field(default=512, ge=8)
    """Tokens of prompt and answer a scorer reads; longer answers are left out."""
    max_failed_share: float = Field(default=0.02, ge=0, le=1)
    """Share of answers that may fail before the stage does."""
