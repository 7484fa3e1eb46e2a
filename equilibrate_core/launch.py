"""From a Kubeflow task to a stage: paths from artifacts, metrics back, processes started.

This module decides whether a stage runs in this process or under torchrun; `launch_training` hands
it the trainings that are not for several nodes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from equilibrate_core.artifacts import write_json
from equilibrate_core.config import StageConfig, load_config, parse_config
from equilibrate_core.digests import check_code
from equilibrate_core.inputs import Kind, check_unchanged, pinned
from equilibrate_core.model_cache import damage_set_aside, shelve, unshelve
from equilibrate_core.scratch_folders import scratch
from equilibrate_core.stage import Metrics, Stage, configure_logging, report_error
from equilibrate_core.torchrun import run_torchrun


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
    stage: Stage,
    config_type: type[StageConfig],
    config: str,
    metrics: KfpMetrics,
    *,
    code_digest: str,
    input_digests: str = "{}",
    fields: Mapping[str, Any] | None = None,
    **paths: Any,
) -> None:
    """Run a stage inside a Kubeflow task and log its scalars.

    `paths` are KFP artifacts (anything with a `path`) or None, `code_digest` names the code that
    the pipeline was made with, without which nothing runs, `input_digests` what resolve_inputs
    found at the URIs that the stage reads, `fields` what tells a task from others with the same
    section. A user's mistake ends the task with one clear line instead of a traceback.
    """
    configure_logging()
    try:
        check_code(stage.__name__, code_digest)
        section = pinned(load_config(config, config_type), input_digests)
        if fields:
            values = {**section.model_dump(mode="json"), **fields}
            section = parse_config(values, config_type, "the task's section")
        arguments = {n: Path(a.path) for n, a in paths.items() if a is not None}
        if stage.__name__ == "import_model":
            scalars = run_stage(stage, section, arguments)
            shelve(arguments["base_model"])
        else:
            found = {name: unshelve(path) for name, path in arguments.items()}
            with damage_set_aside(found.values()):
                scalars = run_stage(stage, section, found)
        kind: Kind = "dataset" if stage.__name__ == "import_data" else "model"
        check_unchanged(input_digests, section.model_dump(mode="json"), kind)
        log_scalars(metrics, scalars)
    except Exception as error:
        raise SystemExit(report_error(error)) from error


def log_scalars(metrics: KfpMetrics, scalars: Metrics) -> None:
    """Show a stage's scalars where the Kubeflow UI lists them."""
    for name, value in scalars.items():
        metrics.log_metric(name, value)
    write_json(Path(metrics.path), scalars)


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
    with scratch() as folder:
        arguments = ["--config", config.model_dump_json()]
        for name, path in paths.items():
            arguments += [f"--{name}", str(path)]
        options = ["--standalone", f"--nproc-per-node={num_processes}"]
        return run_torchrun(stage.__module__, arguments, options, folder / "metrics.json")
