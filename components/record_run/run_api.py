"""What Kubeflow's run API knows of a run and its exit handler is not told: the failed task.

GET <api>/apis/v2beta1/runs/<run id> -> when the run began, and the first task that failed for good.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from equilibrate_core.errors import StageError

TOKEN_PATH = "/var/run/secrets/kubeflow/pipelines/token"
GROUPS = ("root", "exit-handler-", "condition-", "for-loop-", "Alignment", "If changed")


@dataclass(frozen=True)
class RunView:
    """A run as its API shows it while the exit handler runs."""

    name: str
    started: str
    failed_task: str | None
    """Name of the first task that failed for good; None when none did."""
    failed_reason: str
    num_tasks: int


def ask_run(api_url: str, run_id: str, timeout_s: float) -> RunView:
    """Ask the run API. Raises StageError when it does not answer, or with nothing useful."""
    url = f"{api_url.rstrip('/')}/apis/v2beta1/runs/{run_id}"
    retries = urllib3.Retry(
        total=2, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), redirect=0
    )
    try:
        # Certificates are verified; SSL_CERT_FILE names a private authority.
        with urllib3.PoolManager(retries=retries, timeout=timeout_s) as pool:
            reply = pool.request("GET", url, headers=_token())
            body = reply.json() if reply.status == 200 else None
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise StageError(f"{url}: the run API did not answer: {error}") from error
    if not isinstance(body, dict):
        raise StageError(f"{url}: the run API answered with status {reply.status}")
    return view_run(body)


def view_run(run: dict[str, Any]) -> RunView:
    """The useful part of a v2beta1 run."""
    tasks = (run.get("run_details") or {}).get("task_details") or []
    failed = _failed_for_good(tasks)
    error = (failed.get("error") or {}).get("message", "") if failed else ""
    return RunView(
        name=run.get("display_name") or "",
        started=run.get("created_at") or "",
        failed_task=_name(failed) if failed else None,
        failed_reason=error,
        num_tasks=len(tasks),
    )


def _failed_for_good(tasks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """First task that failed and was not made good by a retry; groups of tasks do not count."""
    parents = {task["task_id"]: task.get("parent_task_id") for task in tasks}
    states = {task["task_id"]: task.get("state") for task in tasks}
    for task in tasks:
        for child in task.get("child_tasks") or []:
            if child.get("task_id"):
                parents[child["task_id"]] = parents.get(child["task_id"]) or task["task_id"]

    def made_good(task_id: str | None) -> bool:
        seen: set[str] = set()
        while task_id and task_id not in seen:
            seen.add(task_id)
            if states.get(task_id) == "SUCCEEDED":
                return True
            task_id = parents.get(task_id)
        return False

    failed = [
        task
        for task in tasks
        if task.get("state") == "FAILED"
        and not (task.get("display_name") or "").startswith(GROUPS)
        and not made_good(parents.get(task["task_id"]))
    ]
    return min(failed, key=lambda task: task.get("end_time") or "9", default=None)


def _name(task: dict[str, Any]) -> str:
    return str(task.get("display_name") or task["task_id"]).removesuffix("-driver")


def _token() -> dict[str, str]:
    path = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN_PATH))
    return {"Authorization": f"Bearer {path.read_text().strip()}"} if path.is_file() else {}
