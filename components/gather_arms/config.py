"""Config of gather_arms."""

from pydantic import Field

from equilibrate_core.config import StageConfig


class GatherArmsConfig(StageConfig):
    """Which arm is added to those gathered before."""

    name: str = Field(min_length=1)
    """What the report calls the arm."""
