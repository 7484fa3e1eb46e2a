"""What tasks in containers on this machine must see of its disk: what the run file names there.

A RunConfig -> the folders and files to mount, each where the same words of the run file lead to it
in a container: inputs to be read only, and destinations, which are made where they are missing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from equilibrate_core.errors import DataError
from pipelines.run_config import RunConfig
from pipelines.sections import resolver_config


@dataclass(frozen=True)
class Shared:
    """A file or folder of this machine."""

    source: Path
    target: str
    """Its path in a container."""
    writable: bool


def shared_paths(config: RunConfig, working_dir: str) -> list[Shared]:
    """What to mount where containers work in a folder. Raises DataError for an absent input."""
    resolver = resolver_config(config)
    found: dict[str, Shared] = {}
    for uri in (*(source.uri for source in resolver.sources), *resolver.uris):
        path = _local(uri)
        if path is not None:
            if not path.exists():
                raise DataError(
                    f"{uri}: no such file or folder (relative paths start at {Path.cwd()})"
                )
            target = _inside(path, working_dir)
            found[target] = Shared(path.resolve(), target, writable=False)
    for uri in _destinations(config):
        path = _local(uri)
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)  # else the daemon makes it, as root
            target = _inside(path, working_dir)
            found[target] = Shared(path.resolve(), target, writable=True)
    return list(found.values())


def _destinations(config: RunConfig) -> Iterator[str]:
    """Where stages write besides their outputs."""
    yield config.publish_model.destination_uri
    yield config.record_run.destination_uri
    yield config.generate_responses.shards_uri or ""
    for judge in (config.classify_prompts, config.judge_responses):
        yield judge.progress_dir or ""
    for training in (*vars(config.train_scorer).values(), config.train_policy):
        yield training.training.checkpoint_uri or ""
    if config.train_control is not None:
        yield config.train_control.training.checkpoint_uri or ""


def _local(uri: str) -> Path | None:
    """The path that a URI is on this machine; None when it leads elsewhere, or nowhere."""
    path = uri.removeprefix("file://")
    return Path(path) if path and "://" not in path else None


def _inside(path: Path, working_dir: str) -> str:
    return os.path.normpath(os.path.join(working_dir, path))
