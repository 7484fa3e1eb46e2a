"""The digest of a stage's code: what makes its cache stop counting after an edit.

It covers every file in the stage's folder and every project module it imports, followed through
the import statements without importing anything.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PACKAGES = ("equilibrate_core", "components")


@cache
def code_digest(stage: str) -> str:
    """First 16 hex digits over the sources of `components/<stage>` and what they import."""
    folder = ROOT / "components" / stage
    files = {
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    pending = [path for path in files if path.suffix == ".py"]
    while pending:
        for module in _project_imports(pending.pop()):
            if module not in files:
                files.add(module)
                pending.append(module)
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()[:16]


@cache
def _project_imports(source: Path) -> frozenset[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = (_module_path(name) for name in names if name.split(".")[0] in PROJECT_PACKAGES)
    return frozenset(path for path in paths if path is not None)


def _module_path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
