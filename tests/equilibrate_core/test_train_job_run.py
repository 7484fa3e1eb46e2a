"""A training over several nodes: its job is started once, followed, and cleaned up."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from components.record_run.config import RecordRunConfig
from components.record_run.stage import record_run
from equilibrate_core import kubernetes_api, pod_logs, train_job_api, train_job_watch
from equilibrate_core.json_objects import write_json_object
from equilibrate_core.kubernetes_api import connect
from equilibrate_core.s3 import list_objects
from tests.components.scoring_fixtures import as_dataset, harm_pairs
from tests.equilibrate_core.training_launcher import config, launch
from tests.kube_api import GIVE_UP_S, RUN_ID, WORKFLOW, KubeApi, base_role
from tests.kube_server import kube_api

pytest_plugins = ["tests.s3_store"]
ROOT = Path(__file__).parents[2]
Actor = Callable[[KubeApi, str], None]


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    as_dataset(folder / "pairs", harm_pairs(4))
    (folder / "base_model").symlink_to(tiny_model)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[KubeApi]:
    """A stand-in cluster that is in a hurry, and the environment of a pod in it."""
    monkeypatch.setattr(kubernetes_api, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(pod_logs, "POLL_S", 0.02)
    monkeypatch.setattr(train_job_watch, "POLL_S", 0.02)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kube_api(tmp_path) as (api, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield api


def leave_result(bucket: str) -> None:
    """What the job's first node leaves: the output, and then its scalars."""
    write_json_object(f"{bucket}/run/scorer/manifest.json", {})
    write_json_object(f"{bucket}/run/scorer.job/metrics.json", {"final_loss": 0.25})


def read(api: KubeApi, name: str, num_lines: int) -> None:
    """Wait until the launching task was sent so many lines of the first node."""
    pod = api.pod_of(name, 0)
    api.wait_until(lambda: api.num_sent[pod] >= num_lines)


def trained(bucket: str, *during: Actor) -> Actor:
    """A job that does its work, with `during` happening in the middle."""

    def play(api: KubeApi, name: str) -> None:
        api.start_pods(name)
        for step in range(10):
            api.say(name, f"step {step}")
        read(api, name, 10)
        for act in during:
            act(api, name)
        for step in range(10, 20):
            api.say(name, f"step {step}")
        leave_result(bucket)
        api.complete(name)

    return play


STEPS = [f"step {step}" for step in range(20)]


def steps_shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]


def test_a_job_that_completes_gives_its_scalars_and_its_log(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait_in_the_queue(api: KubeApi, name: str) -> None:
        api.wait_for("watch", "trainjobs")
        trained(bucket)(api, name)

    cluster.on_create = wait_in_the_queue
    metrics = launch(inputs, bucket)
    assert metrics.logged == {"final_loss": 0.25}
    assert json.loads(Path(metrics.path).read_text()) == metrics.logged
    output = capsys.readouterr()
    assert [x for x in output.out.splitlines() if x.startswith("step")] == STEPS
    said = [line.rpartition(": ")[2] for line in output.err.splitlines() if "TrainJob" in line]
    assert "waiting in the queue (Suspended: Job is suspended)" in output.err
    assert said.count("running on all nodes") == 1
    assert len(cluster.created) == 1


def break_watch(api: KubeApi, name: str) -> None:
    api.wait_for("watch", "trainjobs")
    api.drop_watches()
    api.wait_for("watch", "trainjobs", times=2)


def make_watch_too_old(api: KubeApi, name: str) -> None:
    api.wait_for("watch", "trainjobs")
    api.too_old_watches = 1
    api.drop_watches()
    api.wait_for("watch", "trainjobs", times=3)


def fail_calls(api: KubeApi, name: str) -> None:
    api.failures += [500, 503, 429, 500]
    api.drop_watches()


@pytest.mark.parametrize("trouble", [break_watch, make_watch_too_old, fail_calls])
def test_a_broken_connection_is_made_again_and_no_line_is_lost_or_repeated(
    cluster: KubeApi,
    inputs: Path,
    bucket: str,
    capsys: pytest.CaptureFixture[str],
    trouble: Actor,
) -> None:
    cluster.on_create = trained(bucket, trouble)
    cluster.log_breaks = [0, 45, 200, 31, 333, 41]  # in the middle of lines, too
    assert launch(inputs, bucket).logged == {"final_loss": 0.25}
    assert steps_shown(capsys) == STEPS
    assert len(cluster.created) == 1
    assert not cluster.failures


def test_a_job_that_stalls_is_waited_for_without_a_time_out(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stall(api: KubeApi, name: str) -> None:
        api.watch_ends = 20
        api.wait_for("watch", "trainjobs", times=20)

    cluster.on_create = trained(bucket, stall)
    launch(inputs, bucket)
    assert steps_shown(capsys) == STEPS


def test_after_a_preemption_the_log_of_the_new_pod_is_followed(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def preempt(api: KubeApi, name: str) -> None:
        api.preempt(name)
        api.say(name, "resuming after step 9")
        read(api, name, 1)

    cluster.on_create = trained(bucket, preempt)
    launch(inputs, bucket)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("step")] == STEPS
    assert lines.count("resuming after step 9") == 1
    assert sum("was started again, as pod" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        (None, 1, "failed: FailedJobs: jobset failed due to"),
        ({"kind": "UserError", "message": "pairs: give more"}, 2, "error: pairs: give more"),
        ({"kind": "StageError", "message": "loss is not finite"}, 1, "error: loss is not finite"),
    ],
)
def test_a_job_that_fails_fails_the_task_with_the_reason_and_every_nodes_last_lines(
    cluster: KubeApi,
    inputs: Path,
    bucket: str,
    capsys: pytest.CaptureFixture[str],
    record: Any,
    code: int,
    words: str,
) -> None:
    def fail(api: KubeApi, name: str) -> None:
        api.start_pods(name)
        api.say(name, "out of memory", node=1)
        if record is not None:
            write_json_object(f"{bucket}/run/scorer.job/error-00001.json", record)
        api.fail(name)

    cluster.on_create = fail
    with pytest.raises(SystemExit) as ended:
        launch(inputs, bucket)
    shown = capsys.readouterr()
    assert ended.value.code == code
    assert words in shown.err and "Traceback" not in shown.err
    assert "--- node 1, the end of its log:\nout of memory\n" in shown.out


def test_a_job_that_failed_in_an_earlier_attempt_is_made_anew(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(api: KubeApi, name: str) -> None:
        write_json_object(
            f"{bucket}/run/scorer.job/error-00000.json", {"kind": "UserError", "message": "of old"}
        )
        write_json_object(f"{bucket}/run/scorer/half-written.json", {})
        api.fail(name)

    cluster.on_create = fail
    with pytest.raises(SystemExit):
        launch(inputs, bucket)
    cluster.on_create = trained(bucket)
    assert launch(inputs, bucket).logged == {"final_loss": 0.25}
    first, second = cluster.created
    assert first["metadata"]["name"] == second["metadata"]["name"]
    left = [item.name for item in list_objects(f"{bucket}/run/")]
    assert left == ["scorer.job/metrics.json", "scorer/manifest.json"]


def test_a_completed_job_is_not_done_again(cluster: KubeApi, inputs: Path, bucket: str) -> None:
    cluster.on_create = trained(bucket)
    launch(inputs, bucket)
    assert launch(inputs, bucket).logged == {"final_loss": 0.25}
    assert len(cluster.created) == 1


def test_a_creation_whose_reply_was_lost_makes_one_job(
    cluster: KubeApi, inputs: Path, bucket: str
) -> None:
    cluster.on_create = trained(bucket)
    cluster.lost_replies = 1
    launch(inputs, bucket)
    assert len(cluster.created) == 1
    assert cluster.calls.count(("create", "trainjobs")) == 2


def test_a_job_that_completes_without_an_output_fails_the_task(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.on_create = lambda api, name: api.complete(name)
    with pytest.raises(SystemExit):
        launch(inputs, bucket)
    assert f"{bucket}/run/scorer is not whole" in capsys.readouterr().err


def test_a_job_that_someone_deletes_fails_the_task(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def vanish(api: KubeApi, name: str) -> None:
        api.wait_for("watch", "trainjobs")
        api.delete(name)

    cluster.on_create = vanish
    with pytest.raises(SystemExit):
        launch(inputs, bucket)
    assert "was deleted before it ended" in capsys.readouterr().err


def test_a_role_without_train_jobs_is_told_in_one_line(
    cluster: KubeApi, inputs: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.rules = [rule for rule in cluster.rules if "trainjobs" not in rule["resources"]]
    with pytest.raises(SystemExit) as ended:
        launch(inputs, bucket)
    assert ended.value.code == 2
    assert "give the pod's account the role of manifests/base/rbac.yaml" in capsys.readouterr().err


def test_without_a_cluster_the_task_says_what_to_do(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SystemExit) as ended:
        launch(inputs, "s3://bucket")
    assert ended.value.code == 2
    assert "no Kubernetes cluster" in capsys.readouterr().err


def started(inputs: Path, bucket: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.equilibrate_core.training_launcher"]
    return subprocess.Popen(
        [*command, str(inputs), bucket],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_launcher_that_was_killed_and_started_again_follows_the_same_job(
    cluster: KubeApi, inputs: Path, bucket: str
) -> None:
    goes_on = threading.Event()

    def wait(api: KubeApi, name: str) -> None:
        goes_on.wait(GIVE_UP_S)

    cluster.on_create = trained(bucket, wait)
    first = started(inputs, bucket)
    cluster.wait_for("watch", "trainjobs")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = started(inputs, bucket)
    cluster.wait_for("watch", "trainjobs", times=2)
    goes_on.set()
    out, errors = second.communicate()
    assert second.returncode == 0, errors
    assert json.loads(out.splitlines()[-1]) == {"final_loss": 0.25}
    assert [line for line in out.splitlines() if line.startswith("step")] == STEPS
    assert cluster.calls.count(("create", "trainjobs")) == 1


@pytest.mark.parametrize("end", ["moved", "cancelled"])
def test_sigterm_leaves_the_job_unless_the_run_is_cancelled(
    cluster: KubeApi, inputs: Path, bucket: str, end: str
) -> None:
    cluster.on_create = lambda api, name: api.start_pods(name)
    process = started(inputs, bucket)
    cluster.wait_for("watch", "trainjobs")
    if end == "cancelled":
        cluster.workflows[WORKFLOW]["spec"]["activeDeadlineSeconds"] = 0
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert ("is deleted" if end == "cancelled" else "goes on") in errors
    assert (("delete", "trainjobs") in cluster.calls) == (end == "cancelled")


def test_the_end_of_a_run_deletes_what_it_left_running_and_nothing_else(
    cluster: KubeApi, inputs: Path, bucket: str, tmp_path: Path
) -> None:
    cluster.on_create = trained(bucket)
    launch(inputs, bucket)
    (done,) = cluster.jobs
    api_job = json.loads(json.dumps(cluster.created[0]))
    cluster.on_create = lambda api, name: api.start_pods(name)
    for name, run in (("left", RUN_ID), ("others", "run-2")):
        api_job["metadata"] |= {"name": name}
        api_job["metadata"]["labels"]["pipeline/runid"] = run
        train_job_api.create_job(connect(), json.loads(json.dumps(api_job)))
    record_run(
        RecordRunConfig(destination_uri=str(tmp_path), train_jobs=True),
        run_name="run",
        state="CANCELED",
        error_code=0,
        error_message="",
        run_id=RUN_ID,
    )
    assert (
        "deletionTimestamp"
        in cluster.jobs.get("left", {"metadata": "deletionTimestamp"})["metadata"]
    )
    assert not any("deletionTimestamp" in cluster.jobs[n]["metadata"] for n in (done, "others"))


def test_the_role_grants_what_is_used_and_no_more() -> None:
    """Every other test here runs under the role; this one lists what they need."""
    granted = {
        (resource, verb)
        for rule in base_role()["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if {"trainer.kubeflow.org", "argoproj.io"} & set(rule["apiGroups"])
        and resource in ("trainjobs", "trainingruntimes", "workflows")
    }
    verbs = {("trainjobs", verb) for verb in ("get", "list", "watch", "create", "delete")}
    assert granted == verbs | {("workflows", "get")}


def test_a_configuration_for_several_nodes_needs_checkpoints_that_all_can_reach() -> None:
    for uri in (None, "/checkpoints"):
        with pytest.raises(ValueError, match=r"needs training\.checkpoint_uri: s3://"):
            config("s3://b", training={"checkpoint_uri": uri})
