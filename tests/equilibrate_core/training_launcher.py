"""The launching task of a TrainJob, as a process of its own: for test_train_job_run alone.

`… -m tests.equilibrate_core.training_launcher FOLDER BUCKET` runs what Kubeflow's task runs, on the
pairs at FOLDER; the stage itself is never imported.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components.train_scorer.config import TrainScorerConfig
from equilibrate_core import kubernetes_api, pod_logs, train_job_watch
from equilibrate_core.digests import code_digest
from equilibrate_core.launch_training import launch_training

NODES: dict[str, Any] = {
    "image": "equilibrate/train:0.1.0",
    "cpu": "4",
    "memory": "16Gi",
    "accelerators": "8",
    "accelerator_type": "nvidia.com/gpu",
    "timeout_s": 3600.0,  # numbers in a KFP struct are floating
    "queue": "equilibrate",
    "s3_secret": "equilibrate-s3",
    "secret_variables": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "model_cache": "equilibrate-model-cache",
}
SELECTOR = {"equilibrate/pool": "gpu"}
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists"}]


class Metrics:
    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.logged: dict[str, float] = {}

    def log_metric(self, metric: str, value: float) -> None:
        self.logged[metric] = value


def train_scorer() -> None:
    raise AssertionError("the launching task trains nothing itself")


train_scorer.__module__ = "components.train_scorer.stage"


def config(bucket: str, **changes: Any) -> TrainScorerConfig:
    training = {"checkpoint_uri": f"{bucket}/checkpoints"}
    return TrainScorerConfig.model_validate({"num_nodes": 2, "training": training} | changes)


def launch(folder: Path, bucket: str, settings: TrainScorerConfig | None = None) -> Metrics:
    """Run the task: inputs `pairs` and `base_model` of a folder, the output in the bucket."""
    names = ("pairs", "base_model", "scorer")
    artifacts = {
        name: SimpleNamespace(path=str(folder / name), uri=f"{bucket}/run/{name}") for name in names
    }
    metrics = Metrics(folder / "metrics.json")
    launch_training(
        train_scorer,  # type: ignore[arg-type]
        TrainScorerConfig,
        (settings or config(bucket)).model_dump_json(),
        metrics,
        code_digest=code_digest("train_scorer"),
        output="scorer",
        nodes=NODES,
        node_selector=SELECTOR,
        tolerations=TOLERATIONS,
        **artifacts,
    )
    return metrics


if __name__ == "__main__":
    kubernetes_api.FIRST_DELAY_S = pod_logs.POLL_S = train_job_watch.POLL_S = 0.05
    print(json.dumps(launch(Path(sys.argv[1]), sys.argv[2]).logged))
