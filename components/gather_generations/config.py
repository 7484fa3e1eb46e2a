"""Config of gather_generations."""

from pydantic import Field

from equilibrate_core.config import StageConfig


class GatherGenerationsConfig(StageConfig):
    """How many parts make the whole."""

    num_shards: int = Field(ge=2, le=8)
    """Parts that there must be, each once: `generate_responses.num_shards`."""
