"""Config of publish_model."""

from pydantic import Field

from equilibrate_core.config import StageConfig


class PublishModelConfig(StageConfig):
    """Where a model that passed the gate goes."""

    destination_uri: str = Field(min_length=1)
    """s3:// prefix or folder; the model lands in `<prefix>/<name>/sha256-<digest>/`."""
    name: str = Field(default="policy", pattern=r"^[\w.-]+$")
    """Name of the model at the destination."""
    max_alias_attempts: int = Field(default=5, ge=1)
    """Tries to move the alias `latest.json` while other publishers move it too."""
