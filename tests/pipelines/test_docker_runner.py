"""Containers as kfp's local runner starts them, against a strict stand-in of the daemon."""

import inspect
import os
import signal
import threading
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from kfp.local import docker_task_handler
from kfp.local.config import LocalExecutionConfig

from equilibrate_core.config import parse_config
from equilibrate_core.errors import DataError, StageError
from pipelines import local
from pipelines.container_mounts import shared_paths
from pipelines.docker_runner import (
    CACHE,
    SCRATCH,
    docker_runner,
    failures_noticed,
    run_container,
)
from pipelines.local_tasks import TOLD_TO_STOP, LocalTasks, local_tasks
from pipelines.run_config import RunConfig

LAPTOP = Path(__file__).parents[2] / "pipelines" / "configs" / "laptop.yaml"


class Container:
    """One container of the stand-in: refuses what a real daemon would refuse in that state."""

    def __init__(self, daemon: "Daemon", options: dict[str, Any]) -> None:
        self.daemon, self.options, self.state = daemon, options, "created"
        self.attrs: dict[str, Any] = {}
        self.killed = threading.Event()

    def start(self) -> None:
        assert self.state == "created"
        going_on = self.daemon.lines is None or self.daemon.endless
        self.state = "running" if going_on else "exited"

    def logs(self, *, stream: bool, follow: bool) -> Any:
        if self.daemon.lines is None:
            raise KeyboardInterrupt
        return iter(self.daemon.lines) if self.state == "exited" else self._until_killed()

    def _until_killed(self) -> Any:
        yield b"begun\n"
        os.kill(os.getpid(), signal.SIGTERM)
        assert self.killed.wait(30)
        yield b"saved\n"

    def kill(self, *, signal: str) -> None:
        if self.state != "running":
            raise docker.errors.APIError("is not running")
        self.daemon.signals.append(signal)
        self.killed.set()

    def wait(self) -> dict[str, int]:
        if self.options.get("auto_remove"):
            raise docker.errors.NotFound("No such container")
        return {"StatusCode": self.daemon.code}

    def reload(self) -> None:
        self.attrs = {"State": {"OOMKilled": self.daemon.out_of_memory}}

    def remove(self, *, force: bool) -> None:
        assert force or self.state != "running"
        self.daemon.containers.remove(self)


class Daemon:
    """What `run_container` needs of a docker client."""

    def __init__(
        self, code: int = 0, lines: list[bytes] | None = (), out_of_memory: bool = False
    ) -> None:
        self.code, self.lines, self.out_of_memory = code, lines, out_of_memory
        self.containers: Any = self
        self.images: Any = self
        self.there: list[Container] = []
        self.endless, self.signals, self.commands = False, [], []
        self.known = {"there:1"}

    def create(self, image: str, command: list[str], **options: Any) -> Container:
        self.get(image)
        self.commands.append(command)
        self.there.append(Container(self, options))
        return self.there[-1]

    def get(self, image: str) -> str:
        if image not in self.known:
            raise docker.errors.ImageNotFound("no such image")
        return image

    def pull(self, image: str) -> None:
        if image != "registry:1":
            raise docker.errors.NotFound("", explanation="pull access denied")
        self.known.add(image)

    def remove(self, container: Container) -> None:
        self.there.remove(container)


def go(daemon: Daemon, image: str = "there:1", **options: Any) -> int:
    tasks = options.pop("tasks", LocalTasks())
    return run_container(daemon, image, ["true"], {}, tasks=tasks, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_exit_code_of_a_container_is_the_tasks_and_nothing_is_left(code: int) -> None:
    daemon = Daemon(code)
    assert go(daemon) == code
    assert daemon.there == []


def test_what_a_container_prints_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    go(Daemon(lines=[b"one\n", b"two \xff\n"]))
    assert capsys.readouterr().out == "one\ntwo \N{REPLACEMENT CHARACTER}\n"


def test_running_out_of_memory_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert go(Daemon(137, out_of_memory=True)) == 137
    assert "error: the container was killed: it ran out of memory" in capsys.readouterr().out


def test_interrupt_removes_the_container() -> None:
    daemon = Daemon(lines=None)
    with pytest.raises(KeyboardInterrupt):
        go(daemon)
    assert daemon.there == []


def test_a_run_that_is_told_to_stop_tells_its_container_and_starts_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon = Daemon(75)
    daemon.endless = True
    with local_tasks() as tasks:
        assert go(daemon, tasks=tasks) == 75
        assert go(daemon, tasks=tasks) == TOLD_TO_STOP
    assert (daemon.signals, len(daemon.commands), daemon.there) == (["SIGTERM"], 1, [])
    assert capsys.readouterr().out == "begun\nsaved\n"


def test_a_stage_takes_its_shells_place_in_a_container() -> None:
    daemon = Daemon()
    script = "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main"
    run_container(daemon, "there:1", ["sh", "-ec", script], {}, tasks=LocalTasks())  # type: ignore[arg-type]
    assert daemon.commands == [["sh", "-ec", script.replace("python3", "exec python3")]]


def test_missing_image_is_named_with_the_mend() -> None:
    with pytest.raises(StageError, match=r"absent:1: neither .*pull access denied.*make images"):
        go(Daemon(), image="absent:1")


def test_image_in_a_registry_is_pulled() -> None:
    assert go(Daemon(), image="registry:1") == 0


def test_kfp_still_calls_what_is_replaced_and_as_we_take_it() -> None:
    source = inspect.getsource(docker_task_handler.DockerTaskHandler.run)
    assert "return_code = run_docker_container(" in source
    theirs = list(inspect.signature(docker_task_handler.run_docker_container).parameters)[:4]
    assert theirs == list(inspect.signature(run_container).parameters)[:4]
    before = docker_task_handler.run_docker_container
    with failures_noticed(LocalTasks()):
        assert docker_task_handler.run_docker_container.func is run_container
    assert docker_task_handler.run_docker_container is before


def test_containers_get_what_they_need_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EQUILIBRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/of/this/machine")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    monkeypatch.setenv("JUDGE_API_KEY", "key")
    runner = docker_runner({"PYTHONUNBUFFERED": "1"}, named=("JUDGE_API_KEY",))
    options = runner.container_run_args
    environment = options["environment"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert (environment["PYTHONUNBUFFERED"], environment["JUDGE_API_KEY"]) == ("1", "key")
    assert environment["EQUILIBRATE_CACHE"] == CACHE
    assert not {"AWS_CA_BUNDLE", "MY_PASSWORD", "PATH"} & environment.keys()
    assert options["read_only"] and options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges"]


def on_this_disk(folder: Path) -> RunConfig:
    """A run that reads from and writes to this machine's disk, by relative and absolute paths."""
    values = yaml.safe_load(LAPTOP.read_text())
    values |= {"local": {}, "record_run": {"destination_uri": "out/records"}}
    values["import_data"]["sources"] = [
        {"name": "mine", "uri": "data/mine.jsonl", "adapter": "prompts"},
        {"name": "pairs", "uri": f"{folder}/data/pairs.csv", "adapter": "pairs"},
        {"name": "far", "uri": "s3://bucket/far", "adapter": "pairs"},
    ]
    values["import_model"] = {"uri": "hf://org/model"}
    values["judge_model"] = {"uri": f"file://{folder}/judge"}
    values["score_benchmarks"]["data_uri"] = "benchmarks"
    values["publish_model"]["destination_uri"] = str(folder / "out" / "models")
    values["train_policy"]["training"]["checkpoint_uri"] = "out/checkpoints"
    return parse_config(values, RunConfig, "test")


def test_containers_see_the_disk_as_far_as_the_run_file_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EQUILIBRATE_CACHE", str(tmp_path / "cache"))
    for name in ("data", "elsewhere", "benchmarks"):
        (tmp_path / name).mkdir()
    for name in ("data/mine.jsonl", "data/pairs.csv", "data/secret"):
        (tmp_path / name).touch()
    (tmp_path / "judge").symlink_to("elsewhere")
    shared = shared_paths(on_this_disk(tmp_path), SCRATCH)
    options = docker_runner({}, shared=shared).container_run_args
    assert options["working_dir"] == SCRATCH
    mounted = {
        mount["Target"]: (str(Path(mount["Source"]).relative_to(tmp_path)), mount["ReadOnly"])
        for mount in options["mounts"]
    }
    assert mounted == {
        CACHE: ("cache", True),
        f"{SCRATCH}/data/mine.jsonl": ("data/mine.jsonl", True),
        f"{tmp_path}/data/pairs.csv": ("data/pairs.csv", True),
        f"{tmp_path}/judge": ("elsewhere", True),
        f"{SCRATCH}/benchmarks": ("benchmarks", True),
        f"{SCRATCH}/out/records": ("out/records", False),
        f"{tmp_path}/out/models": ("out/models", False),
        f"{SCRATCH}/out/checkpoints": ("out/checkpoints", False),
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "checkpoints", "models", "records",
    ]  # fmt: skip


def test_an_absent_input_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = on_this_disk(tmp_path)
    with pytest.raises(
        DataError, match=r"data/mine\.jsonl: no such file .*relative paths start at"
    ):
        local.run_locally(config, tmp_path / "runs", "docker")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "out").exists()


def test_the_key_of_every_judge_and_of_the_registry_reaches_the_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = ["FIRST_KEY", "OTHER_KEY", "ANSWER_KEY", "REGISTRY_KEY"]
    for name in (*keys, "NOBODYS_KEY"):
        monkeypatch.setenv(name, f"value of {name}")
    monkeypatch.setenv("EQUILIBRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LocalExecutionConfig, "instance", None)  # put back what others set up
    first, other, answers = (
        {"backend": "endpoint", "endpoint_url": f"http://{name}/v1", "endpoint_model": name,
         "api_key_env": name}
        for name in keys[:3]
    )  # fmt: skip
    values = yaml.safe_load(LAPTOP.read_text())
    values["classify_prompts"] |= {"judge": first, "other_judges": [other]}
    values["judge_responses"] |= {"judge": answers}
    registry = {"server_url": "http://registry", "token_env": "REGISTRY_KEY"}
    values["publish_model"] |= {"model_registry": registry}
    config = parse_config(values, RunConfig, "test")
    local._init_kfp(config, "docker", tmp_path / "run" / "artifacts", tmp_path / "kfp_cache", [])
    environment = LocalExecutionConfig.instance.runner.container_run_args["environment"]
    assert {name: environment[name] for name in keys} == {n: f"value of {n}" for n in keys}
    assert "NOBODYS_KEY" not in environment
