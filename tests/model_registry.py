"""A strict stand-in for the Kubeflow Model Registry's REST server (v1alpha3) on loopback.

It refuses unknown paths, unknown or missing fields, wrong property types, unknown parents and
duplicate names. The rules follow what is known of the v1alpha3 interface; they were not held
against a running server or the whole of its OpenAPI file.
"""

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

API = "/api/model_registry/v1alpha3/"
COMMON = {"name", "description", "externalId", "customProperties"}
FIELDS = {
    "registered_model": COMMON | {"owner", "state"},
    "model_version": COMMON | {"registeredModelId", "author", "state"},
    "model_artifact": COMMON
    | {"artifactType", "uri", "modelFormatName", "modelFormatVersion", "state"},
}
REQUIRED = {
    "registered_model": {"name"},
    "model_version": {"name", "registeredModelId"},
    "model_artifact": {"artifactType"},
}
PROPERTY_FIELDS = {
    "MetadataStringValue": ("string_value", str),
    "MetadataDoubleValue": ("double_value", float),
}


@dataclass
class ModelRegistry:
    """State of a running server."""

    token: str | None = None
    url: str = ""
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuse_with: int | None = None
    fault: Literal["", "page", "list", "half", "reset"] = ""
    """What comes instead of a good answer: 200 with a web page or with JSON of another form, half
    of the promised bytes, or a connection that is reset inside the body."""
    hide_once: set[str] = field(default_factory=set)
    """Kinds whose next search finds nothing: as if another publisher came in between."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [r for r in self.resources.values() if r["kind"] == kind]


@contextmanager
def model_registry(**options: Any) -> Iterator[ModelRegistry]:
    """Serve on a free loopback port until the block ends."""
    state = ModelRegistry(**options)

    class Handler(_Handler):
        registry = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: ModelRegistry

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        kind, query = self._route(), parse_qs(urlsplit(self.path).query)
        if self._is_refused():
            return None
        if kind not in FIELDS:
            return self._reply(404, {"code": "404", "message": f"no path {self.path}"})
        if set(query) - {"name", "externalId", "parentResourceId"} or "name" not in query:
            return self._reply(400, {"code": "400", "message": f"bad query {query}"})
        with self.registry.lock:
            if kind in self.registry.hide_once:
                self.registry.hide_once.remove(kind)
                return self._reply(404, {"code": "404", "message": "not found"})
            found = self._find(kind, query["name"][0], query.get("parentResourceId", [None])[0])
        return self._reply(*((200, found) if found else (404, {"code": "404", "message": "no"})))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return None
        parts = self._route().split("/")
        kind, parent = None, None
        if parts == ["registered_models"]:
            kind = "registered_model"
        elif parts == ["model_versions"]:
            kind, parent = "model_version", body.get("registeredModelId")
        elif len(parts) == 3 and (parts[0], parts[2]) == ("model_versions", "artifacts"):
            kind, parent = "model_artifact", parts[1]
        if kind is None:
            return self._reply(404, {"code": "404", "message": f"no path {self.path}"})
        with self.registry.lock:
            return self._create(kind, parent, body)

    def _create(self, kind: str, parent: str | None, body: dict[str, Any]) -> None:
        problem = self._problem(kind, parent, body)
        if problem:
            return self._reply(400, {"code": "400", "message": problem})
        if self._find(kind, body["name"], parent):
            return self._reply(409, {"code": "409", "message": "already exists"})
        number = str(len(self.registry.resources) + 1)
        resource = {"id": number, "kind": kind, "parent": parent, **body}
        self.registry.resources[number] = resource
        return self._reply(201, resource)

    def _problem(self, kind: str, parent: str | None, body: dict[str, Any]) -> str | None:
        unknown, missing = set(body) - FIELDS[kind], REQUIRED[kind] - set(body)
        if unknown or missing:
            return f"{kind}: unknown {sorted(unknown)}, missing {sorted(missing)}"
        if kind != "registered_model" and parent not in self.registry.resources:
            return f"{kind}: no parent {parent}"
        if kind == "model_artifact" and body["artifactType"] != "model-artifact":
            return "artifactType"
        for name, value in body.get("customProperties", {}).items():
            key, type_ = PROPERTY_FIELDS.get(value.get("metadataType"), ("", object))
            if set(value) != {"metadataType", key} or not isinstance(value[key], type_):
                return f"customProperties.{name}"
        return None

    def _find(self, kind: str, name: str, parent: str | None) -> dict[str, Any] | None:
        for resource in self.registry.of_kind(kind):
            if resource["name"] == name and parent in (None, resource["parent"]):
                return resource
        return None

    def _route(self) -> str:
        path = urlsplit(self.path).path
        return path.removeprefix(API) if path.startswith(API) else ""

    def _is_refused(self) -> bool:
        wanted = self.registry.token
        status = self.registry.refuse_with
        if status is None and wanted and self.headers["Authorization"] != f"Bearer {wanted}":
            status = 401
        if status is not None:
            self._reply(status, {"code": str(status), "message": "refused"})
        return status is not None

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content, fault = json.dumps(body).encode(), self.registry.fault
        if fault in ("page", "list"):
            status, content = 200, b"<p>Log in</p>" if fault == "page" else b"[]"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:5] if fault in ("half", "reset") else content)
        if fault == "reset":  # closed at once and without waiting for what is still to be sent
            now = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            os.close(self.connection.detach())
