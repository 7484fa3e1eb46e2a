"""A strict stand-in of Kubeflow's v2beta1 API on loopback, in memory.

It knows the routes we use and no others; bodies are held against the generated client's models, a
pipeline's text against Kubeflow's own protocol buffers, parameters against that text.
"""

import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api.models as models
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

PREFIX = "/apis/v2beta1"
PYTHON = {"str": (str, int), "bool": bool, "int": int, "object": dict, "datetime": str}
LISTS = {"page_token", "page_size", "filter", "namespace"}


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class KfpApi:
    """The server's state, and what tests tell it to do."""

    token: str = ""
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    """States that a run shows, one per look; the last one stays."""
    task_details: list[dict[str, Any]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    """Statuses to answer the next calls with, instead of serving them."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Call, such as `POST /runs` -> the status it is always answered with."""
    looks_until_expiry: int | None = None
    """How often a run may be looked at before the token has expired."""
    blind_lists: int = 0
    """How many lists of versions to answer as if there were none."""
    host: str = ""
    calls: list[str] = field(default_factory=list)
    stored: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {
            kind: {} for kind in ("experiment", "pipeline", "version", "run", "recurring_run")
        }
    )

    def names(self, kind: str) -> list[str]:
        return [item["display_name"] for item in self.stored[kind].values()]


def check(model_name: str, value: Any, where: str = "body") -> None:
    """Refuse what the generated model of the API does not have."""
    if model_name.startswith("list["):
        for item in value:
            check(model_name[5:-1], item, where)
    elif model_name.startswith("dict("):
        if not isinstance(value, dict):
            raise Refused(400, f"{where}: want an object")
    elif model_name in PYTHON:
        if not isinstance(value, PYTHON[model_name]):
            raise Refused(400, f"{where}: want {model_name}, got {value!r}")
    else:
        model = getattr(models, model_name)
        if not model.openapi_types:
            if value not in model.allowable_values:
                raise Refused(400, f"{where}: {value!r} not in {model.allowable_values}")
            return
        attributes = {json_name: name for name, json_name in model.attribute_map.items()}
        for key, item in value.items():
            if key not in attributes:
                raise Refused(400, f'{where}: unknown field "{key}" in {model_name}')
            check(model.openapi_types[attributes[key]], item, f"{where}.{key}")


def read_pipeline(text: bytes) -> dict[str, Any]:
    """A pipeline's two documents, parsed as strictly as Kubeflow does."""
    documents = list(yaml.safe_load_all(text))
    try:
        json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        for platform in documents[1:]:
            json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
            executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
            for executor in executors.values():
                json_format.ParseDict(
                    executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig()
                )
    except json_format.ParseError as error:
        raise Refused(400, f"InvalidInput: {error}") from error
    return {"pipeline_spec": documents[0], "platform_spec": documents[1:]}


def check_parameters(spec: dict[str, Any], parameters: dict[str, Any]) -> None:
    declared = spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    python = {"STRING": str, "LIST": list, "STRUCT": dict, "BOOLEAN": bool, "NUMBER_INTEGER": int}
    for name, value in parameters.items():
        if name not in declared:
            raise Refused(400, f"InvalidInput: parameter {name} is not a pipeline input")
        if not isinstance(value, python[declared[name]["parameterType"]]):
            raise Refused(400, f"InvalidInput: parameter {name}: {value!r}")


def add(api: KfpApi, kind: str, item: dict[str, Any]) -> dict[str, Any]:
    if not item.get("display_name"):
        raise Refused(400, f"{kind}: empty name")
    key = "pipeline_version_id" if kind == "version" else f"{kind}_id"
    made = item | {key: str(uuid.uuid4()), "created_at": "2026-11-21T10:00:00Z"}
    api.stored[kind][made[key]] = made
    return made


def once(api: KfpApi, kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """Add an object whose name must be new (of a version: new in its pipeline)."""
    scope = item.get("pipeline_id")
    for other in api.stored[kind].values():
        if (other["display_name"], other.get("pipeline_id", scope)) == (
            item.get("display_name"),
            scope if kind == "version" else other.get("pipeline_id"),
        ):
            raise Refused(409, f"AlreadyExist: {kind} {item['display_name']}")
    return add(api, kind, item)


def get(api: KfpApi, kind: str, key: str) -> dict[str, Any]:
    if key not in api.stored[kind]:
        raise Refused(404, f"ResourceNotFoundError: {kind} {key} not found")
    return api.stored[kind][key]


def page(items: list[dict[str, Any]], key: str, query: dict[str, str]) -> dict[str, Any]:
    predicates = json.loads(query.get("filter", "{}")).get("predicates", [])
    for predicate in predicates:
        if set(predicate) != {"operation", "key", "stringValue"}:
            raise Refused(400, f"InvalidInput: filter {predicate}")
        if predicate["operation"] != "EQUALS":
            raise Refused(400, f"InvalidInput: operation {predicate['operation']}")
        items = [x for x in items if x[predicate["key"]] == predicate["stringValue"]]
    start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
    # Pages are short, whatever was asked: a client must follow them.
    end = start + min(size, 2)
    reply: dict[str, Any] = {key: items[start:end]}
    return reply | ({"next_page_token": str(end)} if end < len(items) else {})


def referenced(api: KfpApi, body: dict[str, Any]) -> None:
    """Refuse a run or schedule whose experiment, version or parameters are not there."""
    get(api, "experiment", body.get("experiment_id", ""))
    reference = body.get("pipeline_version_reference") or {}
    version = get(api, "version", reference.get("pipeline_version_id", ""))
    if version["pipeline_id"] != reference.get("pipeline_id"):
        raise Refused(400, "InvalidInput: the version is another pipeline's")
    check_parameters(version["spec"], body.get("runtime_config", {}).get("parameters", {}))


def list_of(kind: str, key: str) -> Callable[..., Any]:
    def serve(api: KfpApi, query: dict[str, str], **_: Any) -> dict[str, Any]:
        return page([*api.stored[kind].values()], key, query)

    return serve


def create_run(api: KfpApi, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    referenced(api, body)
    return add(api, "run", body | {"state": "PENDING", "looks": 0})


def get_run(api: KfpApi, key: str, **_: Any) -> dict[str, Any]:
    run = get(api, "run", key)
    run["state"] = api.states[min(run["looks"], len(api.states) - 1)]
    run["looks"] += 1
    return run | {"run_details": {"task_details": api.task_details}}


def create_schedule(api: KfpApi, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    referenced(api, body)
    cron = ((body.get("trigger") or {}).get("cron_schedule") or {}).get("cron", "")
    if len(cron.split()) != 6:
        raise Refused(400, f"InvalidInput: cron {cron!r} is not six fields")
    if not 1 <= int(body.get("max_concurrency") or 0) <= 10:
        raise Refused(400, "InvalidInput: max_concurrency must be in [1, 10]")
    status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
    return add(api, "recurring_run", body | {"status": status})


def list_schedules(api: KfpApi, query: dict[str, str], **_: Any) -> dict[str, Any]:
    items = [
        item
        for item in api.stored["recurring_run"].values()
        if item["experiment_id"] == query.get("experiment_id", item["experiment_id"])
    ]
    return page(items, "recurringRuns", query)


def disable_schedule(api: KfpApi, key: str, **_: Any) -> dict[str, Any]:
    get(api, "recurring_run", key)["status"] = "DISABLED"
    return {}


def enable_schedule(api: KfpApi, key: str, **_: Any) -> dict[str, Any]:
    get(api, "recurring_run", key)["status"] = "ENABLED"
    return {}


def delete_schedule(api: KfpApi, key: str, **_: Any) -> dict[str, Any]:
    get(api, "recurring_run", key)
    del api.stored["recurring_run"][key]
    return {}


def upload_version(api: KfpApi, query: dict[str, str], upload: bytes, **_: Any) -> dict[str, Any]:
    get(api, "pipeline", query.get("pipelineid", ""))
    item = {"display_name": query.get("name"), "pipeline_id": query["pipelineid"]}
    return once(api, "version", item | {"spec": read_pipeline(upload)})


def list_versions(api: KfpApi, key: str, query: dict[str, str], **_: Any) -> dict[str, Any]:
    get(api, "pipeline", key)
    if api.blind_lists:
        api.blind_lists -= 1
        return {}
    versions = [v for v in api.stored["version"].values() if v["pipeline_id"] == key]
    return page(versions, "pipeline_versions", query)


def creator(kind: str) -> Callable[..., Any]:
    return lambda api, body, **_: once(api, kind, body)


# Method, path, model of the body, allowed query, what to do.
ROUTES: list[tuple[str, str, str, set[str], Callable[..., Any]]] = [
    ("GET", "/experiments", "", LISTS, list_of("experiment", "experiments")),
    ("POST", "/experiments", "V2beta1Experiment", set(), creator("experiment")),
    ("GET", "/pipelines", "", LISTS, list_of("pipeline", "pipelines")),
    ("POST", "/pipelines", "V2beta1Pipeline", set(), creator("pipeline")),
    ("POST", "/pipelines/upload_version", "", {"name", "pipelineid"}, upload_version),
    ("GET", "/pipelines/{key}/versions", "", LISTS - {"namespace"}, list_versions),
    ("POST", "/runs", "V2beta1Run", set(), create_run),
    ("GET", "/runs/{key}", "", set(), get_run),
    ("POST", "/recurringruns", "V2beta1RecurringRun", set(), create_schedule),
    ("GET", "/recurringruns", "", LISTS | {"experiment_id"}, list_schedules),
    ("POST", "/recurringruns/{key}:disable", "", set(), disable_schedule),
    ("POST", "/recurringruns/{key}:enable", "", set(), enable_schedule),
    ("DELETE", "/recurringruns/{key}", "", set(), delete_schedule),
]


def serve(api: KfpApi, method: str, target: str, headers: Any, raw: bytes) -> dict[str, Any]:
    url = urlsplit(target)
    api.calls.append(f"{method} {url.path.removeprefix(PREFIX)}")
    if refusal := api.refusals.get(api.calls[-1]):
        raise Refused(refusal, "planted refusal")
    if api.failures:
        raise Refused(api.failures.pop(0), "planted failure")
    if api.token and headers.get("Authorization") != f"Bearer {api.token}":
        raise Refused(401, "Unauthenticated")
    looks = sum(call.startswith("GET /runs/") for call in api.calls)
    if api.looks_until_expiry is not None and looks > api.looks_until_expiry:
        raise Refused(401, "Unauthenticated: the token has expired")
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    for verb, path, model, allowed, action in ROUTES:
        pattern = re.escape(PREFIX + path).replace(r"\{key\}", "(?P<key>[^/:]+)")
        match = re.fullmatch(pattern, url.path)
        if not match or verb != method:
            continue
        if set(query) - allowed:
            raise Refused(400, f"unknown query parameters {sorted(set(query) - allowed)}")
        arguments: dict[str, Any] = {**match.groupdict(), "query": query}
        if model:
            arguments["body"] = json.loads(raw)
            check(model, arguments["body"])
        elif raw:
            arguments["upload"] = uploaded(headers, raw)
        return action(api, **arguments)
    raise Refused(404, f"no route {method} {url.path}")


def uploaded(headers: Any, raw: bytes) -> bytes:
    """The one file of a multipart form."""
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    (part,) = BytesParser().parsebytes(head + raw).get_payload()
    if part.get_param("name", header="content-disposition") != "uploadfile":
        raise Refused(400, "no uploadfile part")
    return part.get_payload(decode=True)


@contextmanager
def kfp_api(certificate: Path | None = None, **settings: Any) -> Generator[KfpApi]:
    """Run the stand-in; with a certificate (PEM, key included) it speaks TLS."""
    api = KfpApi(**settings)

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, body = 200, serve(api, self.command, self.path, self.headers, raw)
            except Refused as refused:
                status, body = refused.status, {"message": refused.message}
            hidden = ("spec", "looks")
            text = json.dumps({k: v for k, v in body.items() if k not in hidden}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = handle_one

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if certificate else "http"
    api.host = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
