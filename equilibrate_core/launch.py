"""From a Kubeflow task to a stage: paths from artifacts, metrics back, processes started.

This module alone decides whether a stage runs in this process or under torchrun.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from equilibrate_core.artifacts import write_json
from equilibrate_core.config import StageConfig, load_config
from equilibrate_core.errors import StageError
from equilibrate_core.model_cache import shelve, unshelve
from equilibrate_core.stage import Metrics, Stage, configure_logging, report_error


class KfpMetrics(Protocol):
    """The part of kfp.dsl.Metrics that is used here (kfp itself is not imported)."""

    path: str

    def log_metric(self, metric: str, value: float) -> None:
        """Record one scalar."""
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


def run_stage(stage: Stage, config: StageConfig, paths: dict[str, Path]) -> Metrics:
    """Run a stage in this process, or under torchrun when its config asks for several."""
    num_processes = getattr(config, "num_processes", 1)
    if num_processes == 1 or "RANK" in os.environ:
        return stage(config, **paths)
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={num_processes}", "-m", stage.__module__]
        command += ["--config", config.model_dump_json(), "--metrics", str(metrics)]
        for name, path in paths.items():
            command += [f"--{name}", str(path)]
        code = subprocess.run(command, check=False).returncode
        if code or not metrics.is_file():
            raise StageError(
                f"{stage.__name__}: torchrun with {num_processes} processes ended with code {code}"
            )
        return json.loads(metrics.read_text())
