"""What most tests need: one tiny model per template, made once."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# Before torch and transformers are imported: one thread is faster for tiny models, and no hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from equilibrate_core.scratch_folders import own_temporary_files
from tests.tiny_model import as_artifact, make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ChatML model as a `model` artifact; tests must not write to it."""
    return as_artifact(make_tiny_model(tmp_path_factory.mktemp("models") / "chatml"))


@pytest.fixture(scope="session")
def tiny_llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a Llama-3 style template."""
    return as_artifact(
        make_tiny_model(tmp_path_factory.mktemp("models") / "llama3", template="llama3")
    )


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, which `make model` fetched; without it a ModelError says so."""
    from equilibrate_core.small_model import convert_small_model

    return convert_small_model()


@pytest.fixture
def fresh_tmpdir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of temporary files, here and in processes started from here."""
    with tempfile.TemporaryDirectory() as folder:  # not below tmp_path: sockets need short paths
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def pytest_configure(config: pytest.Config) -> None:
    # pytest's own folders stay for those who look why a test failed; what else is temporary goes.
    if not hasattr(config, "workerinput"):  # a worker has what the process that started it has
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        temporary = ExitStack()
        temporary.enter_context(own_temporary_files())
        config.add_cleanup(temporary.close)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-pairs",
        type=Path,
        help="artifact of pairs (import_data's): exactness is measured on its rows instead of the "
        "tests' own conversations",
    )
    parser.addoption("--num-real-pairs", type=int, default=8, help="how many of its rows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest file first: with two workers nothing is left to wait for at the end.
    items.sort(key=lambda item: "test_local_run" not in item.nodeid)


@pytest.fixture(autouse=True)
def _loggers_propagate() -> None:
    # Libraries switch loggers off behind pytest's back.
    logging.disable(logging.NOTSET)
