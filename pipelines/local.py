"""The same graph on one machine: kfp's local runner, with SeaweedFS on loopback as S3.

A RunConfig -> artifacts under the work folder, a report, and what was published.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import local

from components.resolve_inputs.config import NOTHING_NEW
from equilibrate_core.artifacts import remove, write_json
from equilibrate_core.errors import ConfigError, Preempted, StageError
from equilibrate_core.preemption import ToldToStop, sigterm_raises
from equilibrate_core.s3 import create_bucket, remove_objects, upload_folder
from pipelines.alignment import alignment_pipeline
from pipelines.console import RunConsole
from pipelines.container_mounts import Shared, shared_paths
from pipelines.local_tasks import LocalTasks, local_tasks
from pipelines.object_store import object_store
from pipelines.run_config import RunConfig, RunnerName

SAMPLE = Path(__file__).parent / "sample"
CHILDREN = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    # Threads that spin while they wait halve the speed of a machine that does something else too.
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class Outcome:
    """How a local run ended."""

    folder: Path
    """Holds report.html, report.json and run.log."""
    publication: dict[str, Any]
    summary: list[str]
    tasks: list[tuple[str, str, float]]
    """Task, outcome (ran, cached) and seconds."""
    seconds: float


def run_locally(config: RunConfig, work_dir: Path, runner: RunnerName = "subprocess") -> Outcome:
    """Run the pipeline to its end. Raises StageError naming the task that failed and why.

    SIGTERM and Ctrl-C are handed on to the running task; then Preempted is raised.
    """
    if config.max_nodes > 1:
        raise ConfigError(
            f"num_nodes: {config.max_nodes} trains on a cluster: use `equilibrate submit`, or set "
            "num_nodes: 1 to run on this machine"
        )
    try:
        with sigterm_raises():
            return _run(config, work_dir, runner)
    except (ToldToStop, KeyboardInterrupt):
        raise Preempted(
            "told to stop: run it again; what has finished comes from the cache, and a training "
            "with checkpoint_uri goes on from its last checkpoint"
        ) from None


def _run(config: RunConfig, work_dir: Path, runner: RunnerName) -> Outcome:
    started = time.monotonic()
    folder = work_dir.resolve() / config.name
    shared = _shared(config, runner)  # before anything starts
    with _only_run(folder), _environment(CHILDREN), _storage(config, work_dir.resolve()):
        console = RunConsole(folder / "run.log")
        artifacts = folder / "artifacts"
        _init_kfp(config, runner, artifacts, work_dir.resolve() / "cache", shared)
        pipeline = alignment_pipeline(config)
        console.titles = task_titles(pipeline)
        failure: Exception | None = None
        try:
            with (
                local_tasks() as tasks,
                _containers(runner, tasks),
                redirect_stdout(console),
                _logging_to(console),
                warnings.catch_warnings(),
            ):
                # kfp warns once per task that images, resources and retries mean nothing here.
                warnings.filterwarnings("ignore", module="kfp")
                pipeline()
        except RuntimeError as error:
            failure = error
        finally:
            console.finish()
    failed = [task for task, outcome, _ in console.tasks if outcome == "failed"]
    if failure or failed:
        if tasks.told_to_stop:
            raise ToldToStop
        raise StageError(_failure(failed, console, failure))
    if config.resolve_inputs.skip_unchanged and not _went_on(console):
        reason = f"{NOTHING_NEW} since the last completed run"
        publication = {"published": False, "reason": reason}
        return Outcome(folder, publication, [reason], console.tasks, time.monotonic() - started)
    publication = _collect(artifacts, folder)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return Outcome(
        folder, publication, report["summary"], console.tasks, time.monotonic() - started
    )


@contextlib.contextmanager
def _only_run(folder: Path) -> Generator[None]:
    """Keep a second run of this name away: it would write over log and report of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another run of this name is going on; wait for it, or give another "
                "name or --work-dir"
            ) from error
        yield


def task_titles(pipeline: Any) -> dict[str, str]:
    """Display names of the tasks that share a stage with others: train-policy-2, train-policy-3."""
    groups = pipeline.pipeline_spec.components.values()
    tasks = {name: task for group in groups for name, task in group.dag.tasks.items()}
    stages = [task.component_ref.name.rstrip("-0123456789") for task in tasks.values()]
    shared = {stage for stage in stages if stages.count(stage) > 1}
    return {
        name: task.task_info.name.lstrip("0123456789 ")
        for (name, task), stage in zip(tasks.items(), stages, strict=True)
        if stage in shared
    }


@contextlib.contextmanager
def _storage(config: RunConfig, work_dir: Path) -> Generator[None]:
    """Object store of the run, filled as the config says."""
    if not config.local.object_store:
        yield
        return
    folder = work_dir / "object_store"
    with object_store(folder) as store, _environment(store.environment):
        for uri, name in config.local.upload.items():
            source = SAMPLE if name == "sample" else Path(name)
            if not source.is_dir():
                raise ConfigError(f"local.upload: {source}: no such folder")
            create_bucket(uri)
            _mirror(source, uri, folder / "uploaded.json")
        yield


def _mirror(source: Path, uri: str, record: Path) -> None:
    """Upload a folder, and remove what earlier runs uploaded from there that is there no more.

    The store outlives its runs; what others wrote below the URI, such as models, stays.
    """
    uploaded = json.loads(record.read_text()) if record.exists() else {}
    now = upload_folder(source, uri)
    remove_objects(sorted(set(uploaded.get(uri, ())).difference(now)))
    write_json(record, uploaded | {uri: now})


@contextlib.contextmanager
def _logging_to(console: RunConsole) -> Generator[None]:
    """Send kfp's own messages to the run's log: a cache hit is told nowhere else."""
    root, handler = logging.getLogger(), logging.StreamHandler(console)
    handler.setLevel(logging.INFO)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _containers(runner: RunnerName, tasks: LocalTasks) -> AbstractContextManager[None]:
    if runner == "subprocess":
        return contextlib.nullcontext()
    from pipelines.docker_runner import failures_noticed

    return failures_noticed(tasks)


def _shared(config: RunConfig, runner: RunnerName) -> list[Shared]:
    if runner == "subprocess":
        return []
    from pipelines.docker_runner import SCRATCH

    return shared_paths(config, SCRATCH)


def _init_kfp(
    config: RunConfig, runner: RunnerName, artifacts: Path, cache: Path, shared: Sequence[Shared]
) -> None:
    """Set up kfp's runner; runs of one work folder share the cache, so a common part runs once."""
    if runner == "docker":
        from pipelines.docker_runner import docker_runner

        keys = tuple(variable for _, variable in config.keys)
        kfp_runner: Any = docker_runner(CHILDREN, named=keys, shared=shared)
    else:
        kfp_runner = local.SubprocessRunner(use_venv=False)
    local.init(
        kfp_runner,
        pipeline_root=str(artifacts),
        enable_caching=True,
        cache_root=str(cache),
        workspace_root=str(artifacts.parent / "workspace"),
    )


def _went_on(console: RunConsole) -> bool:
    """Whether any task ran or was found in the cache beside the first and the last."""
    return any(task not in ("resolve-inputs", "record-run") for task, _, _ in console.tasks)


def _failure(failed: list[str], console: RunConsole, error: Exception | None) -> str:
    task = failed[0] if failed else "the pipeline"
    reasons = console.task_errors or ([str(error)] if error else [])
    lines = [f"{task} failed: {reason}" for reason in reasons[-3:]] or [f"{task} failed"]
    return "\n".join([*lines, f"the whole log is in {console.log_path}"])


def _collect(artifacts: Path, folder: Path) -> dict[str, Any]:
    """Copy this run's report to the run's folder and return its publication record.

    publish_model is never cached, so the newest publication is this run's; it carries the report
    it was decided on.
    """
    found = sorted(
        artifacts.glob("*/publish-model*/publication/publication.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        raise StageError(f"{artifacts}: the run left no publication record")
    for name in ("report.html", "report.json"):
        target = folder / name
        remove(target)
        shutil.copy2(found[-1].parent / name, target)
    return json.loads(found[-1].read_text(encoding="utf-8"))
