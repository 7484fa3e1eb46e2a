"""The `bucket` fixture: name this module in `pytest_plugins` of a test that needs real S3."""

import uuid
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from equilibrate_core.s3 import create_bucket
from pipelines.object_store import ObjectStore, object_store

_running = ExitStack()


def pytest_sessionfinish() -> None:
    """Not at the process's exit: a worker may be killed there, and leave what it had."""
    _running.close()


@cache
def shared_store() -> ObjectStore:
    """One server for all tests of this process, stopped at its end."""
    folder = _running.enter_context(TemporaryDirectory(prefix="equilibrate-test-store-"))
    return _running.enter_context(object_store(Path(folder)))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh bucket, the environment set so that it can be used."""
    for name, value in shared_store().environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://test-{uuid.uuid4().hex[:12]}"
    create_bucket(uri)
    return uri
