"""Config of resolve_inputs: the URIs whose content decides whether a run starts afresh."""

from pydantic import ConfigDict, Field

from equilibrate_core.config import Config, StageConfig


class SourceRef(Config):
    """A source of import_data, of which only the URI matters here; its other fields are ignored."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)
    uri: str = Field(min_length=1)
    """Local file or folder, s3://bucket/key or folder, or hf://org/name[/subset][@revision]."""


class ResolveInputsConfig(StageConfig):
    """Everything a run reads from outside."""

    sources: tuple[SourceRef, ...] = ()
    """The `sources` of import_data, as they stand in the run file."""
    uris: tuple[str, ...] = ()
    """Models and other data: local folder or file, s3://, hf://org/name[@revision] (a model),
    hf://datasets/org/name[@revision]."""
