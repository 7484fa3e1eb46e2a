"""The record of a run's end: outcome, duration and failed task, whatever happened."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.record_run.config import RecordRunConfig
from components.record_run.run_api import view_run
from components.record_run.stage import record_run
from tests.kfp_api import KfpApi, kfp_api

RUN_ID = "0b7e"


def recorded(tmp_path: Path, state: str, *, api: str = "", **changes: Any) -> dict[str, Any]:
    config = RecordRunConfig(
        destination_uri=str(tmp_path), pipeline="p", api_url=api, api_timeout_s=2
    )
    values: dict[str, Any] = {"error_code": 0, "error_message": "", "run_id": RUN_ID} | changes
    uri = record_run(config, run_name="projects/x y", state=state, **values)
    return json.loads(Path(uri).read_text())


def served(api: KfpApi, *tasks: dict[str, Any]) -> str:
    run = {"display_name": "weekly", "run_id": RUN_ID, "created_at": "2026-11-21T10:00:00Z"}
    api.stored["run"][RUN_ID] = run | {"looks": 0}
    api.states, api.task_details = ["RUNNING"], list(tasks)
    return api.host


def task(key: str, name: str, state: str, **more: Any) -> dict[str, Any]:
    return {"task_id": key, "display_name": name, "state": state, **more}


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("SUCCEEDED", "succeeded"),  # the local runner
        ("COMPLETE", "succeeded"),  # the backend
        ("FAILED", "failed"),
        ("CANCELED", "canceled"),
        ("RUNNING", "unknown"),
        ("", "unknown"),
    ],
)
def test_both_runners_names_of_states_are_known(tmp_path: Path, state: str, outcome: str) -> None:
    record = recorded(tmp_path, state)
    assert (record["outcome"], record["state"]) == (outcome, state)


def test_the_run_api_names_the_failed_task_and_when_the_run_began(tmp_path: Path) -> None:
    failed = task("3", "8 Train policy", "FAILED", error={"code": 1, "message": "killed"})
    group = task("2", "exit-handler-1", "FAILED", child_tasks=[{"task_id": "3"}])
    with kfp_api() as api:
        url = served(api, task("1", "root", "FAILED"), group, failed)
        record = recorded(tmp_path, "FAILED", api=url)
    assert record["failed_task"] == "8 Train policy"
    assert record["error_message"] == "killed"
    assert record["started"] == "2026-11-21T10:00:00+00:00"
    assert record["duration_s"] is not None and record["api_error"] == ""


def test_an_attempt_that_a_retry_made_good_is_no_failure() -> None:
    retried = task("2", "Import data", "SUCCEEDED", child_tasks=[{"task_id": "3"}])
    attempt = task("3", "Import data(0)", "FAILED", end_time="2026-11-21T10:00:00Z")
    later = task("4", "Train policy", "FAILED", end_time="2026-11-21T11:00:00Z")
    run = {"run_details": {"task_details": [retried, attempt, later]}}
    assert view_run(run).failed_task == "Train policy"
    run = {"run_details": {"task_details": [retried, attempt]}}
    assert view_run(run).failed_task is None


@pytest.mark.parametrize(("state", "outcome"), [("FAILED", "failed"), ("SUCCEEDED", "succeeded")])
def test_a_state_that_says_nothing_yields_to_the_tasks(
    tmp_path: Path, state: str, outcome: str
) -> None:
    with kfp_api() as api:
        url = served(api, task("1", "Import data", state))
        assert recorded(tmp_path, "RUNNING", api=url)["outcome"] == outcome


def test_an_api_that_does_not_answer_does_not_lose_the_record(tmp_path: Path) -> None:
    record = recorded(tmp_path, "FAILED", api="http://127.0.0.1:9", error_message="task failed")
    assert record["outcome"] == "failed" and record["failed_task"] is None
    assert "the run API did not answer" in record["api_error"]
    assert record["error_message"] == "task failed"


def test_an_unknown_run_is_recorded_all_the_same(tmp_path: Path) -> None:
    with kfp_api() as api:
        record = recorded(tmp_path, "COMPLETE", api=api.host)
    assert record["outcome"] == "succeeded"
    assert "answered with status 404" in record["api_error"]


def test_the_pods_own_token_is_shown_to_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("mounted\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    with kfp_api(token="mounted") as api:
        record = recorded(tmp_path, "COMPLETE", api=served(api))
    assert record["api_error"] == ""


def test_a_busy_api_is_asked_again(tmp_path: Path) -> None:
    with kfp_api() as api:
        url = served(api, task("1", "Import data", "FAILED"))
        api.failures = [503, 503]
        assert recorded(tmp_path, "FAILED", api=url)["failed_task"] == "Import data"


@pytest.mark.parametrize(
    ("started", "known"),
    [("2026-11-21T10:00:00+00:00", True), ("{{$.pipeline_job_create_time_utc}}", False)],
)
def test_the_duration_is_told_where_the_beginning_is_known(
    tmp_path: Path, started: str, known: bool
) -> None:
    record = recorded(tmp_path, "COMPLETE", started=started)
    assert (record["duration_s"] is not None) == known


def test_runs_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for run_id in ("one", "two"):
        recorded(tmp_path, "COMPLETE", run_id=run_id)
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["projects-x-y-one.json", "projects-x-y-two.json"]


def test_a_failed_run_leaves_what_completed_before(tmp_path: Path) -> None:
    note = {"news": "changed", "fingerprint": "f", "inputs": {"s3://b/x": "1"}}
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / f"{RUN_ID}.json").write_text(json.dumps(note))
    assert recorded(tmp_path, "FAILED")["inputs"] == note["inputs"]
    assert not (tmp_path / "completed").exists()
    recorded(tmp_path, "COMPLETE")
    done = json.loads((tmp_path / "completed" / "p.json").read_text())
    assert (done["fingerprint"], done["run_id"]) == ("f", RUN_ID)
