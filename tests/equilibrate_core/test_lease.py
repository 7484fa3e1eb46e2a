"""One process holds a lease; a dead one's is taken over; one who lost it notices."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from equilibrate_core import lease, s3
from equilibrate_core.checkpoint_store import LocalStore, Store, open_store
from equilibrate_core.errors import StageError
from equilibrate_core.lease import MAX_REFUSALS, NAME, Lease

pytest_plugins = ["tests.s3_store"]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store on disk, and one in a real object store."""
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return open_store(f"{request.getfixturevalue('bucket')}/store")


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(store: Store, **changes: object) -> None:
    """Put a lease there whose holder is as told."""
    lease = Lease(store)
    record = json.loads(lease._content()) | changes
    store.put_if_absent(NAME, json.dumps(record).encode())


def test_of_many_takers_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        tags = list(pool.map(lambda i: store.put_if_absent(NAME, str(i).encode()), range(8)))
    (won,) = [i for i, tag in enumerate(tags) if tag is not None]
    content, tag = store.read(NAME) or (b"", "")
    assert (content, tag) == (str(won).encode(), tags[won])
    with ThreadPoolExecutor(8) as pool:
        again = list(
            pool.map(lambda i: store.replace_if_match(NAME, f"{i}x".encode(), tag), range(8))
        )
    assert sum(new is not None for new in again) == 1


def test_a_live_holder_keeps_others_out(store: Store) -> None:
    with Lease(store, length_s=4.0).held():
        started = time.monotonic()
        with pytest.raises(StageError, match="held by a live run"), Lease(store).held():
            pass
        assert time.monotonic() - started < 15


def test_a_lease_given_back_is_free_at_once(store: Store) -> None:
    with Lease(store).held():
        pass
    started = time.monotonic()
    with Lease(store).held() as lease:
        lease.check()
    assert time.monotonic() - started < 5


def test_a_stale_lease_is_taken_over_once_it_runs_out(store: Store) -> None:
    left_behind(store, process="another machine 1", length_s=1.0)
    with Lease(store, length_s=1.0).held():
        content, _ = store.read(NAME) or (b"{}", "")
        assert json.loads(content)["pid"] == os.getpid()


class FakeTime:
    """A clock that only sleeping moves, and what happens while a taker sleeps.

    `ahead` is by how much this machine's clock is before that of the lease's writer.
    """

    def __init__(self, ahead: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.ahead, self.meanwhile, self.slept = ahead, meanwhile, 0.0

    def time(self) -> float:
        return time.time() + self.ahead + self.slept

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.meanwhile()


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
def test_a_live_lease_is_not_taken_by_a_machine_with_another_clock(
    ahead: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    holder = Lease(store)

    def renewed() -> None:
        if clock.slept and clock.slept % 15 == 0:
            content = json.loads(holder._content()) | {"process": "another machine 1"}
            assert store.replace_if_match(NAME, json.dumps(content).encode(), tags[-1])
            tags.append((store.read(NAME) or (b"", ""))[1])

    left_behind(store, process="another machine 1")
    tags = [(store.read(NAME) or (b"", ""))[1]]
    clock = FakeTime(ahead, renewed)
    monkeypatch.setattr(lease, "time", clock)
    with pytest.raises(StageError, match="held by a live run"):
        Lease(store)._acquire()
    assert clock.slept == 15


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
def test_a_lease_that_nobody_renews_is_taken_after_its_length_whatever_the_clock_says(
    ahead: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    left_behind(store, process="another machine 1", length_s=30.0)
    clock = FakeTime(ahead)
    monkeypatch.setattr(lease, "time", clock)
    Lease(store)._acquire()
    assert clock.slept == 30


def test_a_lease_given_back_is_free_at_once_for_a_machine_whose_clock_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    with Lease(store).held():
        pass
    clock = FakeTime(-7200.0)
    monkeypatch.setattr(lease, "time", clock)
    Lease(store)._acquire()
    assert clock.slept == 0


def test_of_two_who_wait_for_a_dead_holders_lease_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    left_behind(store, process="another machine 1", length_s=30.0)
    other = Lease(store)

    def taken() -> None:
        if clock.slept == 29:
            content = json.loads(other._content()) | {"process": "a third machine 1"}
            tag = (store.read(NAME) or (b"", ""))[1]
            assert store.replace_if_match(NAME, json.dumps(content).encode(), tag)

    clock = FakeTime(0.0, taken)
    monkeypatch.setattr(lease, "time", clock)
    with pytest.raises(StageError, match="held by a live run"):
        Lease(store)._acquire()


def test_the_lease_of_a_process_that_died_here_is_taken_at_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    left_behind(store, pid=dead_pid(), length_s=3600.0)
    started = time.monotonic()
    with Lease(store).held():
        assert time.monotonic() - started < 5


def test_a_holder_whose_lease_was_taken_notices_and_does_not_take_it_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Lease(store, length_s=0.2).held() as lease:
        content, tag = store.read(NAME) or (b"", "")
        while store.replace_if_match(NAME, b'{"owner": "thief"}', tag) is None:
            content, tag = store.read(NAME) or (b"", "")
        deadline = time.monotonic() + 10
        with pytest.raises(StageError, match="took these checkpoints over"):
            while time.monotonic() < deadline:
                lease.check()
                time.sleep(0.02)
    assert (store.read(NAME) or (b"",))[0] == b'{"owner": "thief"}'
    assert content


class Vanishing(LocalStore):
    """A folder whose lease is removed between every refusal and the look at it."""

    def __init__(self, uri: str, times: int) -> None:
        super().__init__(uri)
        self.times, self.writes = times, 0

    def put_if_absent(self, name: str, content: bytes) -> str | None:
        self.writes += 1
        if self.writes <= self.times:
            return None
        return super().put_if_absent(name, content)


def test_a_lease_that_goes_while_it_is_looked_at_is_taken(tmp_path: Path) -> None:
    store = Vanishing(str(tmp_path), times=3)
    with Lease(store).held() as held:
        assert json.loads((store.read(NAME) or (b"{}",))[0])["owner"] == held.owner
    assert store.writes == 4


def test_a_lease_that_never_stays_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PAUSE_S", 0.001)
    store = Vanishing(str(tmp_path), times=10**9)
    with pytest.raises(StageError, match=r"lease\.json: was taken or removed by others"):
        Lease(store)._acquire()
    assert store.writes == MAX_REFUSALS + 1


def test_an_object_that_goes_while_it_is_read_is_none(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"{bucket}/store")
    store.put_if_absent(NAME, b"{}")
    real = s3.read_object

    def late(uri: str) -> tuple[bytes, str]:
        s3.remove_folder(f"{bucket}/store")
        return real(uri)

    monkeypatch.setattr(s3, "read_object", late)
    assert store.read(NAME) is None
