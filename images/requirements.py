"""Print the pinned packages of an image: what our package and its models need, out of the lock.

Run in the project's environment: `python images/requirements.py cpu|train|vllm`. Development tools,
the vLLM of laptops and what the lock leaves out on purpose do not appear.
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
LEFT_OUT = {
    "cpu": {"triton"},  # compiles for GPUs
    "train": {"torch", "triton"},  # come with CUDA libraries that the lock does not name
    "vllm": {"torch", "triton"},  # the base image's own
}


def pins() -> dict[str, str]:
    """Lines of the lock by canonical name."""
    lines = (line.strip() for line in (PROJECT / "requirements.lock").read_text().splitlines())
    wanted = [line for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(re.split(r"[=; ]", line)[0]): line for line in wanted}


def own_requirements() -> list[Requirement]:
    """What pyproject.toml asks for at run time, with models."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["models"]]
    return [Requirement(line) for line in lines]


def closure(requirements: list[Requirement]) -> set[str]:
    """Canonical names of the requirements and of everything they need in turn."""
    todo = list(requirements)
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            try:
                lines = requires(requirement.name) or []
            except PackageNotFoundError:
                continue  # left out of the lock, hence not installed
            needed = (Requirement(line) for line in lines)
            todo += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def main(image: str) -> None:
    """Print the image's pins, one a line."""
    locked = pins()
    for name in sorted((closure(own_requirements()) & locked.keys()) - LEFT_OUT[image]):
        print(locked[name])


if __name__ == "__main__":
    main(sys.argv[1])
