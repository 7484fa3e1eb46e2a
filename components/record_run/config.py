"""Config of record_run."""

from pydantic import Field

from equilibrate_core.config import StageConfig


class RecordRunConfig(StageConfig):
    """Where the end of a run is recorded."""

    destination_uri: str = Field(min_length=1)
    """s3:// prefix or folder; the record is `<prefix>/runs/<run>.json`, and what the last completed
    run of a pipeline had seen is `<prefix>/completed/<pipeline>.json`."""
    pipeline: str = ""
    """Name of the run file; filled in from it."""
    api_url: str = ""
    """Kubeflow's run API, asked for the failed task; filled in from `kubeflow.api_url` on a
    cluster. Empty: not asked."""
    train_jobs: bool = False
    """Delete TrainJobs that the run has left running; filled in where a training has several
    nodes."""
    api_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds to wait for each of three tries at the run API."""
