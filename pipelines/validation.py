"""Check what a run points at before anything expensive starts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from components.import_model.config import ImportModelConfig
from components.resolve_inputs.stage import resolve_inputs
from equilibrate_core.errors import ConfigError, ModelError
from equilibrate_core.generator_config import GeneratorConfig
from equilibrate_core.s3_uris import is_s3
from equilibrate_core.small_model import small_model_file
from pipelines.run_config import RunConfig
from pipelines.sections import resolver_config

WARNING = "warning: "
"""Begins a line about what could not be looked at."""


def check_run(config: RunConfig) -> Iterator[str]:
    """Yield one line per thing found in order, or not to be seen from here.

    Raises a UserError at the first that is not in order.
    Sources inside an object store that the run itself starts cannot be looked at beforehand.
    """
    if config.local.object_store:
        yield "object store: started by the run, its sources are checked when it is up"
    else:
        resolve_inputs(resolver_config(config))
        yield f"sources: {len(config.import_data.sources)} found"
    for model in (config.import_model, config.judge_model):
        if model is not None:
            yield _check_model(model)
    for name, judge in config.judges:
        yield _check_judge(name, judge)


def gate_gaps(config: RunConfig) -> list[str]:
    """A warning for a gate that would let a policy out whatever its safety or over-refusal is."""
    missing = config.write_report.gate.not_asked
    if not missing:
        return []
    return [
        f"write_report.gate asks for nothing about {missing}: a policy is published "
        "whatever it does there; set min_safety and max_over_refusal (see The gate in README.md)"
    ]


def local_store_gaps(config: RunConfig) -> list[str]:
    """A warning for s3:// addresses that a run with a store of its own looks up on this machine."""
    if not config.local.object_store:
        return []
    own = {urlsplit(uri).netloc for uri in config.local.upload}
    uris = filter(is_s3, _texts(config.model_dump(mode="json", exclude={"local"})))
    others = [uri for uri in uris if urlsplit(uri).netloc not in own]
    if not others:
        return []
    return [
        "local.object_store is on, so `equilibrate run` keeps every s3:// URI on this machine, also"
        f" {', '.join(dict.fromkeys(others))}; set local: {{object_store: false}} for a real store"
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(cast(dict[str, Any], value).values())
    if isinstance(value, list):
        for part in cast(list[Any], value):
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


def _check_model(model: ImportModelConfig) -> str:
    if model.uri == "smollm2":
        return f"model: {small_model_file()}"
    if "://" not in model.uri and not Path(model.uri).exists():
        raise ModelError(f"{model.uri}: no such folder or GGUF file")
    return f"model: {model.uri}"


def _check_judge(name: str, judge: GeneratorConfig) -> str:
    if judge.backend != "endpoint":
        return f"{name}: in-process ({judge.backend})"
    from_outside = _in_cluster(judge) and "KUBERNETES_SERVICE_HOST" not in os.environ
    headers = {}
    if judge.api_key_env:
        if judge.api_key_env in os.environ:
            headers["Authorization"] = f"Bearer {os.environ[judge.api_key_env]}"
        elif not from_outside:
            raise ConfigError(f"{name}: environment variable {judge.api_key_env} is not set")
    url = f"{(judge.endpoint_url or '').rstrip('/')}/models"
    try:
        response = httpx.get(url, headers=headers, timeout=10)
    except httpx.HTTPError as error:
        if from_outside:
            return (
                f"{WARNING}{name}: {url} is an address of a cluster's own and not to be reached "
                "from here; the run itself will find out whether it answers"
            )
        raise ConfigError(f"{name}: {url}: no answer: {error}") from error
    if response.status_code != httpx.codes.OK:
        raise ConfigError(f"{name}: {url}: answered {response.status_code}; check key and URL")
    return f"{name}: {judge.endpoint_url} answers"


def _in_cluster(judge: GeneratorConfig) -> bool:
    """Whether a server's name is one that only a cluster's own name service knows."""
    host = urlsplit(judge.endpoint_url or "").hostname or ""
    return host.endswith((".svc", ".cluster.local")) or not ("." in host or host == "localhost")
