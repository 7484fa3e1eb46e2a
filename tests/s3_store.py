"""The `bucket` fixture: name this module in `pytest_plugins` of a test that needs real S3."""

import atexit
import uuid
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from equilibrate_core.s3 import create_bucket
from pipelines.object_store import ObjectStore, object_store


@cache
def shared_store() -> ObjectStore:
    """One server for all tests of this process, stopped at its end."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = stack.enter_context(TemporaryDirectory(prefix="equilibrate-test-store-"))
    return stack.enter_context(object_store(Path(folder)))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh bucket, the environment set so that it can be used."""
    for name, value in shared_store().environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://test-{uuid.uuid4().hex[:12]}"
    create_bucket(uri)
    return uri
