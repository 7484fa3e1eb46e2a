"""Config of record_run."""

from pydantic import Field

from equilibrate_core.config import StageConfig


class RecordRunConfig(StageConfig):
    """Where the end of a run is recorded."""

    destination_uri: str = Field(min_length=1)
    """s3:// prefix or folder; the record is `<prefix>/runs/<run>.json`."""
