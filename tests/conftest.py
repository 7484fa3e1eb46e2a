"""What most tests need: one tiny model per template, made once."""

import logging
import os
from pathlib import Path

import pytest

# Before torch and transformers are imported: one thread is faster for tiny models, and no hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

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
