"""A connection that the other end closed is a lost process; anything else stays what it is."""

import pytest

from equilibrate_core.errors import DataError, Preempted, StageError, StorageError
from equilibrate_core.peer_loss import lost_peer

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]"
NCCL = (
    "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error\n"
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting "
    "prematurely."
)


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.parametrize("message", [GLOO, NCCL, "writev: Broken pipe"])
def test_a_broken_connection_is_a_lost_process(message: str) -> None:
    lost = lost_peer(RuntimeError(message))
    assert lost is not None and message.splitlines()[0] in str(lost)
    assert lost.exit_code == 1


def test_a_broken_connection_behind_another_error_is_found() -> None:
    outer = StageError("evaluation failed")
    outer.__cause__ = RuntimeError(GLOO)
    assert lost_peer(outer) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
        RuntimeError("NCCL error: ncclInvalidUsage: Duplicate GPU detected"),
        ConnectionResetError("Connection reset by peer"),  # a store's or a hub's
        StorageError("s3://b: connection reset by peer"),
        DataError(GLOO),
        Preempted(GLOO),
        KeyError("broken pipe"),
    ],
)
def test_other_errors_are_none(error: Exception) -> None:
    assert lost_peer(error) is None


def test_a_single_process_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert lost_peer(RuntimeError(GLOO)) is None
