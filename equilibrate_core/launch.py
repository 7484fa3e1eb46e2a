"""From a Kubeflow task to a stage: paths from artifacts, metrics back, processes started.

This module alone decides whether a stage runs in this process or under torchrun.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

from equilibrate_core.artifacts import write_json
from equilibrate_core.config import StageConfig, load_config
from equilibrate_core.errors import StageError
from equilibrate_core.model_cache import shelve, unshelve
from equilibrate_core.stage import (
    Metrics,
    Stage,
    configure_logging,
    raise_child_error,
    report_error,
)

SAVE_TIMEOUT_S = 3600
"""Seconds that processes told to stop are given to save; the cluster's grace period ends sooner."""


class KfpMetrics(Protocol):
    """The part of kfp.dsl.Metrics that is used here (kfp itself is not imported)."""

    path: str

    def log_metric(self, metric: str, value: float) -> None:
        """Record one scalar."""
        ...


class KfpConfusion(Protocol):
    """The part of kfp.dsl.ClassificationMetrics that is used here."""

    path: str

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Record one matrix."""
        ...


def launch(
    stage: Stage, config_type: type[StageConfig], config: str, metrics: KfpMetrics, **paths: Any
) -> None:
    """Run a stage inside a Kubeflow task and log its scalars.

    `paths` are KFP artifacts (anything with a `path`) or None. A user's mistake ends the task
    with one clear line instead of a traceback.
    """
    configure_logging()
    try:
        section = load_config(config, config_type)
        arguments = {n: Path(a.path) for n, a in paths.items() if a is not None}
        if stage.__name__ == "import_model":
            scalars = run_stage(stage, section, arguments)
            shelve(arguments["base_model"])
        else:
            found = {name: unshelve(path) for name, path in arguments.items()}
            scalars = run_stage(stage, section, found)
        for name, value in scalars.items():
            metrics.log_metric(name, value)
        write_json(Path(metrics.path), scalars)
    except Exception as error:
        raise SystemExit(report_error(error)) from error


def log_confusion_matrix(
    artifact: Any, chart: KfpConfusion, *, file: str = "agreement.json", part: str | None = None
) -> None:
    """Show a judge's confusion matrix, gold labels in rows, where the Kubeflow UI draws it.

    `file` of the artifact holds `labels` and `matrix` (under the key `part`). Without gold labels
    nothing is shown, but the output is there: a task that leaves one out is never a cache hit.
    """
    content = json.loads((Path(artifact.path) / file).read_text(encoding="utf-8"))
    table = content if part is None else content[part]
    labels, matrix = table["labels"], table["matrix"]
    if matrix:
        chart.log_confusion_matrix(list(labels), [list(row) for row in matrix])
    write_json(Path(chart.path), {"labels": labels, "matrix": matrix})


def run_stage(stage: Stage, config: StageConfig, paths: dict[str, Path]) -> Metrics:
    """Run a stage in this process, or under torchrun when its config asks for several."""
    num_processes = getattr(config, "num_processes", 1)
    if num_processes == 1 or "RANK" in os.environ:
        return stage(config, **paths)
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={num_processes}", f"--shutdown-timeout={SAVE_TIMEOUT_S}"]
        command += ["-m", stage.__module__, "--config", config.model_dump_json()]
        command += ["--metrics", str(metrics)]
        for name, path in paths.items():
            command += [f"--{name}", str(path)]
        code = _run_group(command)
        raise_child_error(metrics)
        if code or not metrics.is_file():
            raise StageError(
                f"{stage.__name__}: torchrun with {num_processes} processes ended with code {code}"
            )
        return json.loads(metrics.read_text())


def _run_group(command: list[str]) -> int:
    """Run torchrun and hand a SIGTERM on to it, which hands it on to its processes."""
    process = subprocess.Popen(command)
    if threading.current_thread() is not threading.main_thread():
        return process.wait()

    def hand_on(number: int, frame: object) -> None:
        process.terminate()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
