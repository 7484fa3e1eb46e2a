"""Registration in a Kubeflow Model Registry: a model, a version per digest, an artifact.

publication record -> the ids in the registry (REST API v1alpha3). Asking again finds what is there.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from components.publish_model.config import RegistryConfig
from equilibrate_core.errors import ConfigError, StorageError

API = "/api/model_registry/v1alpha3"
PUBLISHED = "the model is published, run the stage again to register it"
CHECK = f"check model_registry.server_url; {PUBLISHED}"
FORMAT = {"modelFormatName": "safetensors", "modelFormatVersion": "1"}
Json = dict[str, Any]


def register_model(config: RegistryConfig, record: Mapping[str, Any]) -> dict[str, str]:
    """Register a published model and return the registry's ids.

    The version is named by the digest, so that publishing the same policy again adds nothing.
    Raises StorageError when the registry refuses, ConfigError when the token's variable is unset.
    """
    client = _Client(config.server_url.rstrip("/") + API, registry_token(config), config.timeout_s)
    digest = str(record["digest"])
    model = client.ensure("registered_model", {"name": record["name"]}, "registered_models", {})
    version = client.ensure(
        "model_version",
        {"name": f"sha256-{digest[:16]}", "parentResourceId": model},
        "model_versions",
        {
            "registeredModelId": model,
            "description": f"Passed the gate: {record['gate']['label']}",
            "customProperties": _properties(record),
        },
    )
    artifact = client.ensure(
        "model_artifact",
        {"name": f"{record['name']}-{digest[:16]}", "parentResourceId": version},
        f"model_versions/{version}/artifacts",
        {"artifactType": "model-artifact", "uri": record["uri"], **FORMAT},
    )
    return {
        "registered_model_id": model,
        "model_version_id": version,
        "model_artifact_id": artifact,
    }


@dataclass(frozen=True)
class _Client:
    """Four kinds of request to one registry."""

    url: str
    token: str | None
    timeout_s: float

    def ensure(self, search: str, key: Mapping[str, str], collection: str, body: Json) -> str:
        """Id of the resource with this key, created if it is not there.

        Another publisher may create it between the search and the creation: a conflict is no
        error if the resource can then be found.
        """
        path = f"{search}?{urlencode(key)}"
        found = self._send("GET", path, absent=(404,))
        if found is None:
            new = {"name": key["name"], **body}
            found = self._send("POST", collection, new, absent=(409,)) or self._send("GET", path)
        assert found is not None
        return str(found["id"])

    def _send(
        self, method: str, path: str, body: Json | None = None, absent: tuple[int, ...] = ()
    ) -> Json | None:
        """The answer's JSON; None for one of the statuses in `absent`."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", data=data, headers=headers, method=method)
        at = f"model registry: {method} {request.full_url}"
        try:
            with urlopen(request, timeout=self.timeout_s) as response:
                answer = json.load(response)
        except HTTPError as error:
            said = _said(error)
            if error.code in absent:
                return None
            raise StorageError(f"{at}: {error.code} {said}; {PUBLISHED}") from error
        except (OSError, HTTPException, ValueError) as error:
            # Unreachable, silent, broken off, or a page that is no JSON (a proxy's, a login).
            raise StorageError(f"{at}: {type(error).__name__}: {error}; {CHECK}") from error
        if not isinstance(answer, dict) or "id" not in answer:
            raise StorageError(f"{at}: the answer has no id: {str(answer)[:200]}; {CHECK}")
        return answer


def _said(error: HTTPError) -> str:
    try:
        with error:
            return error.read(500).decode(errors="replace")
    except (OSError, HTTPException):
        return "(the answer broke off)"


def registry_token(config: RegistryConfig) -> str | None:
    """The token that the variable holds. Raises ConfigError when it is not set."""
    if config.token_env is None:
        return None
    token = os.environ.get(config.token_env)
    if not token:
        raise ConfigError(
            f"model_registry.token_env: the variable {config.token_env} is not set here; on a "
            "cluster kubeflow.env_secrets names the secret that has it"
        )
    return token


def _properties(record: Mapping[str, Any]) -> Json:
    """Digest and gate figures in the registry's typed form."""
    properties: Json = {
        "policy_digest": {"metadataType": "MetadataStringValue", "string_value": record["digest"]}
    }
    for condition in record["gate"]["conditions"]:
        value = condition["value"]
        if isinstance(value, int | float):
            properties[condition["name"]] = {
                "metadataType": "MetadataDoubleValue",
                "double_value": float(value),
            }
    return properties
