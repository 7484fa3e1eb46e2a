"""Tasks in containers on this machine: kfp's DockerRunner, made to notice failures.

kfp 2.17 starts containers that remove themselves, and takes one that is gone before its exit code
was asked for as a success (kubeflow/pipelines #13332). Ours stay until their code is known.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import docker
from docker.types import Mount
from kfp import local
from kfp.local import docker_task_handler

from equilibrate_core.errors import StageError
from equilibrate_core.s3_client import SETTINGS
from equilibrate_core.small_model import cache_folder
from pipelines.container_mounts import Shared
from pipelines.local_tasks import TOLD_TO_STOP, LocalTasks, without_shell

PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "OMP_NUM_THREADS")
"""Variables of this process that tasks may see, besides those of S3 and EQUILIBRATE_*."""
CACHE = "/cache"
SCRATCH = "/scratch"


def docker_runner(
    settings: dict[str, str], named: tuple[str, ...] = (), shared: Sequence[Shared] = ()
) -> local.DockerRunner:
    """Kfp's runner with containers as locked up as a cluster's: nothing but outputs is writable.

    `settings` are variables that every local task gets, `named` those that the run's config names
    (a judge's key), `shared` what it names on this machine's disk. The user is this process's own,
    so that outputs belong to whoever started it.
    """
    passed = (*SETTINGS, *PASSED_ON, *named)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in passed or name.startswith("EQUILIBRATE_")
    }
    environment |= settings | {"EQUILIBRATE_CACHE": CACHE, "HOME": SCRATCH, "TMPDIR": SCRATCH}
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    return local.DockerRunner(
        network_mode="host",  # the object store listens on loopback alone
        environment=environment,
        user=f"{os.getuid()}:{os.getgid()}",
        mounts=[Mount(CACHE, str(cache), type="bind", read_only=True), *map(_mount, shared)],
        working_dir=SCRATCH,  # where relative paths of the run file are mounted
        read_only=True,
        tmpfs={SCRATCH: "exec,mode=1777"},
        shm_size="1g",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,
        healthcheck={"test": ["NONE"]},  # for servers; a task's exit code tells all
    )


def _mount(shared: Shared) -> Mount:
    return Mount(shared.target, str(shared.source), type="bind", read_only=not shared.writable)


@contextlib.contextmanager
def failures_noticed(tasks: LocalTasks) -> Generator[None]:
    """Have kfp run its containers through `run_container` inside the block."""
    before = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = functools.partial(run_container, tasks=tasks)
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = before


def run_container(
    client: docker.DockerClient,
    image: str,
    command: list[str],
    volumes: dict[str, Any],
    *,
    tasks: LocalTasks,
    **options: Any,
) -> int:
    """Run one container to its end, print what it prints, and return its exit code.

    It gets the signals that the run gets, and is removed whatever happens.
    """
    if tasks.refuses(command):
        return TOLD_TO_STOP
    for path in volumes:
        Path(path).mkdir(parents=True, exist_ok=True)  # else the daemon makes it, as root
    _have_image(client, image)
    container = client.containers.create(image, without_shell(command), volumes=volumes, **options)
    try:
        container.start()
        with tasks.running(functools.partial(_send, container), command):
            for line in container.logs(stream=True, follow=True):
                print(line.decode(errors="replace"), end="")
            state = container.wait()
        if state["StatusCode"] == 137 and _out_of_memory(container):
            print("error: the container was killed: it ran out of memory")
        return int(state["StatusCode"])
    finally:
        container.remove(force=True)


def _send(container: Any, number: int) -> None:
    """Send a signal to a container, from a thread: this one may hold the client's lock."""

    def kill() -> None:
        with contextlib.suppress(docker.errors.APIError):  # it has ended already
            container.kill(signal=signal.Signals(number).name)

    threading.Thread(target=kill, daemon=True).start()


def _have_image(client: docker.DockerClient, image: str) -> None:
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(image)
        except docker.errors.APIError as error:
            raise StageError(
                f"{image}: neither on this machine nor to be had ({error.explanation}); build it "
                "with `make images`, or name yours in the section kubeflow of the run's config"
            ) from error


def _out_of_memory(container: Any) -> bool:
    container.reload()
    return bool(container.attrs["State"].get("OOMKilled"))
