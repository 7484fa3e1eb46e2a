"""The base of every config model: frozen, closed, documented in place."""

import json
from collections.abc import Set
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from equilibrate_core.errors import ConfigError


class Config(BaseModel):
    """A frozen config; unknown fields are refused, a field's docstring is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class StageConfig(Config):
    """What every stage's section has."""

    seed: int = Field(default=0, ge=0)
    """Seed of everything random in this stage."""


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(source: str, model: type[ConfigT]) -> ConfigT:
    """Config from inline JSON or from a YAML/JSON file.

    Raises ConfigError with one line per mistake: where, what, and what would be right.
    """
    if source.lstrip().startswith("{"):
        return parse_config(_parse_yaml(source, "inline config"), model, "inline config")
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"{source}: no such config file (inline JSON must start with '{{')")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 text: {error}") from error
    return parse_config(_parse_yaml(text, source), model, source)


def parse_config(value: Any, model: type[ConfigT], where: str) -> ConfigT:
    """Validate an already parsed value; raises ConfigError as `load_config` does."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, found {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [f"{where}: {_explain(item)}" for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def to_json(config: Config, *, without: Set[str] = frozenset()) -> str:
    """The config as one line of JSON, defaults written out: what a task receives.

    `without` names fields that a task is given otherwise.
    """
    values = config.model_dump(mode="json", exclude=set(without))
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}{line}: not valid YAML or JSON: {problem}") from error


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"]) or "(top level)"
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field; remove it or correct its spelling"
    if item["type"] == "missing":
        return f"{field}: required field is missing"
    return f"{field}: {item['msg']} (found {item['input']!r:.80})"
