import fcntl
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from equilibrate_core import s3
from equilibrate_core.errors import StorageError
from pipelines.object_store import free_ports, object_store


def start_and_stop(folder, **options):
    with object_store(folder, **options):
        pass


def wait_until_unlocked(path):
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel ends a killed process in its own time


def use(store, monkeypatch):
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)


def test_two_servers_run_side_by_side_and_share_nothing(tmp_path, monkeypatch):
    with object_store(tmp_path / "one") as one, object_store(tmp_path / "two") as two:
        use(one, monkeypatch)
        s3.create_bucket("s3://only-in-one")
        use(two, monkeypatch)
        with pytest.raises(StorageError, match="no such bucket"):
            s3.exists("s3://only-in-one/x")
        assert one.environment["AWS_SECRET_ACCESS_KEY"] != two.environment["AWS_SECRET_ACCESS_KEY"]


def test_objects_and_credentials_survive_a_restart(tmp_path, monkeypatch):
    with object_store(tmp_path) as first:
        use(first, monkeypatch)
        s3.create_bucket("s3://kept")
        s3.put_if_absent("s3://kept/object", b"content")
    with pytest.raises(ProcessLookupError):
        os.kill(first.pid, 0)
    url = urlsplit(first.endpoint)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((url.hostname, url.port))
    with object_store(tmp_path) as second:
        use(second, monkeypatch)
        assert s3.read_object("s3://kept/object")[0] == b"content"
        assert second.environment["AWS_ACCESS_KEY_ID"] == first.environment["AWS_ACCESS_KEY_ID"]
    secret = tmp_path / "identities.json"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert first.environment["AWS_SECRET_ACCESS_KEY"] not in first.log_path.read_text()


def test_server_is_stopped_when_the_block_fails_and_its_folder_is_free_again(tmp_path):
    with pytest.raises(ZeroDivisionError), object_store(tmp_path) as store:
        with pytest.raises(StorageError, match=f"pid {store.pid}.* already runs on this folder"):
            start_and_stop(tmp_path)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(store.pid, 0)
    with pytest.raises(StorageError, match=r"did not answer within 0 s .*weed\.log"):
        start_and_stop(tmp_path, start_timeout_s=0)


def test_server_ends_with_a_run_that_was_killed_and_its_folder_is_free_again(tmp_path):
    code = (
        "import os, sys, pathlib; from pipelines.object_store import object_store\n"
        "with object_store(pathlib.Path(sys.argv[1])) as store:\n"
        "    print(store.pid, flush=True); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ports = (tmp_path / "server.lock").read_text().split()[1:]
    assert any(Path("/tmp").glob(f"seaweedfs-*-{port}.sock") for port in ports)
    wait_until_unlocked(tmp_path / "server.lock")  # the server has it for as long as it lives
    assert not Path(f"/proc/{int(done.stdout)}/fd/1").exists()
    start_and_stop(tmp_path)
    assert not any([*Path("/tmp").glob(f"seaweedfs-*-{port}.sock")] for port in ports)


def test_no_start_adds_logs_or_folders_to_those_of_the_last_one(tmp_path, fresh_tmpdir):
    names, sizes = [], []
    for _ in range(2):
        with object_store(tmp_path) as store:
            pass
        names.append({path.name for path in tmp_path.iterdir()})
        sizes.append(store.log_path.stat().st_size)
    assert names[0] == names[1]
    assert 0 < sizes[1] < 1.5 * sizes[0]
    assert list(fresh_tmpdir.iterdir()) == []


def test_server_that_cannot_start_says_so_with_its_last_words(tmp_path):
    (tmp_path / "filerldb2").write_text("in the way of the folder it needs")
    with pytest.raises(StorageError, match=r"ended at once; see .*weed\.log, which ends with: ."):
        start_and_stop(tmp_path)


def test_damaged_credentials_are_named(tmp_path):
    (tmp_path / "identities.json").write_text("{")
    with pytest.raises(StorageError, match=r"identities\.json: damaged; delete it"):
        start_and_stop(tmp_path)


def test_free_ports_differ():
    assert len(set(free_ports(20))) == 20
