"""Config of resolve_inputs: the URIs whose content decides whether a run starts afresh."""

from pydantic import ConfigDict, Field

from equilibrate_core.config import Config, StageConfig

CHANGED = "changed"
NOTHING_NEW = "nothing new"


class SourceRef(Config):
    """A source of import_data, of which only the URI matters here; its other fields are ignored."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)
    uri: str = Field(min_length=1)
    """Local file or folder, s3://bucket/key or folder, or hf://org/name[/subset][@revision]."""


class ResolveInputsConfig(StageConfig):
    """Everything a run reads from outside, and whether unchanged inputs end it."""

    sources: tuple[SourceRef, ...] = ()
    """The `sources` of import_data, as they stand in the run file."""
    uris: tuple[str, ...] = ()
    """Models and other data: local folder or file, s3://, hf://org/name[@revision] (a model),
    hf://datasets/org/name[@revision]."""
    skip_unchanged: bool = False
    """End the run after this one task when neither the inputs nor the settings nor the code
    changed since the last completed run of the same name, published or refused."""
    pipeline: str = ""
    """Name of the run file; filled in from it."""
    records_uri: str = ""
    """Where record_run keeps its records; filled in from its section."""
    published_uri: str = ""
    """Where the pipeline's models are published, <destination>/<name>; filled in from
    publish_model's section."""
