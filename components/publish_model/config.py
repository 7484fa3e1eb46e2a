"""Config of publish_model."""

from pydantic import Field

from equilibrate_core.config import Config, StageConfig


class RegistryConfig(Config):
    """A Kubeflow Model Registry to register published models in."""

    server_url: str = Field(pattern=r"^https?://\S+$")
    """Address of its REST server, e.g. http://model-registry-service.kubeflow:8080."""
    token_env: str | None = None
    """*Name* of the environment variable with a bearer token; None sends none."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to wait for each answer."""


class PublishModelConfig(StageConfig):
    """Where a model that passed the gate goes."""

    destination_uri: str = Field(min_length=1)
    """s3:// prefix or folder; the model lands in `<prefix>/<name>/sha256-<digest>/`, with the card
    and report of its first publication; those of each one in `reports/<digest>/` below."""
    name: str = Field(default="policy", pattern=r"^[\w.-]+$")
    """Name of the model at the destination."""
    max_alias_attempts: int = Field(default=5, ge=1)
    """Tries to move the alias `latest.json` while other publishers move it too."""
    model_registry: RegistryConfig | None = None
    """Where to register the published model; None registers nowhere."""
