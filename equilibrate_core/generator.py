"""The one Generator: opens a model with vllm or transformers, or a server, and closes it again.

Judging and generation alike come through here; backends give equal token ids to equal models.
"""

import importlib
import importlib.util
import logging
import platform
from collections import abc
from contextlib import contextmanager
from pathlib import Path

from equilibrate_core.completions import Generator
from equilibrate_core.errors import ConfigError
from equilibrate_core.generator_config import GeneratorConfig

logger = logging.getLogger(__name__)


@contextmanager
def open_generator(config: GeneratorConfig, model_path: Path | None) -> abc.Generator[Generator]:
    """Yield a generator for the model at `model_path`, or for the configured endpoint.

    Raises ConfigError or ModelError when it cannot be opened; processes it starts end with it.
    """
    backend = choose_backend(config)
    if backend == "endpoint":
        from equilibrate_core.generator_endpoint import EndpointGenerator

        logger.info("generator: %s at %s", config.endpoint_model, config.endpoint_url)
        yield EndpointGenerator(config)
        return
    if model_path is None:
        raise ConfigError(f"backend {backend} needs a model; only an endpoint does without")
    if backend == "vllm":
        from equilibrate_core.generator_vllm import open_vllm

        with open_vllm(config, model_path) as generator:
            yield generator
        return
    from equilibrate_core.generator_transformers import TransformersGenerator

    yield TransformersGenerator.load(config, model_path)


def choose_backend(config: GeneratorConfig) -> str:
    """The backend that will run, logged. Raises ConfigError when the one asked for cannot."""
    if config.backend not in ("auto", "vllm"):
        return config.backend
    problem = vllm_problem()
    if config.backend == "vllm":
        if problem is not None:
            raise ConfigError(f"backend vllm: {problem}; use backend auto or transformers")
        return "vllm"
    chosen = "vllm" if problem is None else "transformers"
    logger.info("generator: backend auto chose %s%s", chosen, f" ({problem})" if problem else "")
    return chosen


def settle(config: GeneratorConfig) -> GeneratorConfig:
    """The config with what `auto` means on this machine: another backend answers otherwise.

    A server's precision is its own: of `endpoint` nothing is settled.
    """
    from equilibrate_core.generator_dtype import resolve_dtype  # imports torch

    backend = choose_backend(config)
    if backend == "endpoint":
        return config
    return config.model_copy(update={"backend": backend, "dtype": resolve_dtype(config.dtype)})


def resolved_fields(section: str, settled: GeneratorConfig) -> dict[str, str]:
    """What a manifest records of a settled config, by the field's place in the stage's config."""
    fields = ("backend",) if settled.backend == "endpoint" else ("backend", "dtype")
    return {f"{section}.{field}": getattr(settled, field) for field in fields}


def vllm_problem() -> str | None:
    """Why vllm cannot run here, or None when it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"vllm does not run on {platform.system()} {platform.machine()}"
    try:
        from vllm.platforms import current_platform

        if current_platform.is_unspecified():
            return "this build of vllm finds no device it can use"
        importlib.import_module("vllm.entrypoints.llm")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"vllm cannot be imported: {first_line}"
    return None
