"""Custom resources against their definitions, as strict as an API server that prunes nothing.

CRD YAML -> JSON schemas in which unknown fields are errors, plus the definitions' CEL rules.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import yaml
from celpy.adapter import json_to_cel

CRDS = Path(__file__).parent / "crds"
Schema = dict[str, Any]


@cache
def definitions() -> dict[tuple[str, str], Schema]:
    """Schema of every vendored definition by (apiVersion, kind)."""
    found: dict[tuple[str, str], Schema] = {}
    for path in sorted(CRDS.glob("*.yaml")):
        for crd in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
            for version in crd["spec"]["versions"] if crd else ():
                api = f"{crd['spec']['group']}/{version['name']}"
                schema = version["schema"]["openAPIV3Schema"]
                found[api, crd["spec"]["names"]["kind"]] = schema
    return found


def custom_resource_errors(resource: dict[str, Any]) -> Iterator[str]:
    """What an API server would refuse in a custom resource, one line each."""
    schema = definitions()[resource["apiVersion"], resource["kind"]]
    for error in _validator(resource["apiVersion"], resource["kind"]).iter_errors(resource):
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
    yield from _broken_rules(schema, resource, "")


@cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft7Validator:
    schema = _without_unknown_fields(definitions()[api_version, kind])
    # Every API server knows these three, whatever the definition says of them.
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    return jsonschema.Draft7Validator(schema)


def _without_unknown_fields(schema: Schema) -> Schema:
    """The same schema in JSON Schema's own words, closed to fields it does not name."""
    closed = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema:
        closed["properties"] = {
            name: _without_unknown_fields(part) for name, part in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        closed["additionalProperties"] = _without_unknown_fields(schema["additionalProperties"])
    if "items" in schema:
        closed["items"] = _without_unknown_fields(schema["items"])
    return closed


def _broken_rules(schema: Schema, value: Any, where: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"]:
            continue  # speaks of updates
        if not _program(rule["rule"]).evaluate({"self": json_to_cel(value)}):
            yield f"{where}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from _broken_rules(inner, part, f"{where}/{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _broken_rules(schema.get("items", {}), part, f"{where}/{number}")


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
