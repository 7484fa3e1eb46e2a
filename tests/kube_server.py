"""The Kubernetes API of a stand-in cluster on loopback, as strict as the real one where it counts.

It knows the paths and queries we use and no others, and allows what the base manifests' role does.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kube_api import (
    LAUNCHER,
    NAMESPACE,
    TOKEN,
    KubeApi,
    Object,
    Refused,
    create_job,
    delete_job,
    selected,
)

QUERIES = {
    "list": {"labelSelector", "fieldSelector"},
    "watch": {"watch", "fieldSelector", "resourceVersion", "timeoutSeconds"},
    "log": {"container", "follow", "timestamps", "sinceTime", "tailLines"},
}


def route(api: KubeApi, method: str, target: str) -> tuple[str, str, str, dict[str, str]]:
    """Verb, resource, name and query of a request that the role allows."""
    url = urlsplit(target)
    match = re.fullmatch(
        r"/(?:api/v1|apis/([a-z.]+)/v1alpha1)/namespaces/([a-z-]+)/([a-z]+)"
        r"(?:/([a-z0-9.-]+))?(/log)?",
        url.path,
    )
    if match is None or match[2] != NAMESPACE:
        raise Refused(404, "NotFound", f"no such path: {url.path}")
    group, resource, name = match[1] or "", match[3] + (match[5] or ""), match[4] or ""
    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if name else "list")
    if query.get("watch") == "True" or query.get("watch") == "true":
        verb = "watch"
    kind = "log" if resource == "pods/log" else verb
    unknown = set(query) - QUERIES.get(kind, set())
    if unknown:
        raise Refused(400, "BadRequest", f"unknown query parameters {sorted(unknown)}")
    if not any(
        group in rule["apiGroups"]
        and resource in rule["resources"]
        and verb in rule["verbs"]
        and name in rule.get("resourceNames", [name])
        for rule in api.rules
    ):
        raise Refused(
            403, "Forbidden", f'cannot {verb} resource "{resource}" in API group "{group}"'
        )
    with api.changed:
        api.calls.append((verb, resource))
        api.changed.notify_all()
    return verb, resource, name, query


def answer(api: KubeApi, verb: str, resource: str, name: str, query: Any, raw: bytes) -> Object:
    """The body of an answer that comes as a whole."""
    stores = {"pods": api.pods, "trainjobs": api.jobs, "workflows": api.workflows}
    store = stores[resource]
    with api.changed:
        if verb == "create":
            return create_job(api, json.loads(raw))
        if verb == "list":
            found = selected([*store.values()], query.get("labelSelector", ""))
            only = query.get("fieldSelector", "").removeprefix("metadata.name=")
            version = {"resourceVersion": str(next(api.numbers))}
            items = [o for o in found if only in ("", o["metadata"]["name"])]
            return {"metadata": version, "items": items}
        if name not in store:
            raise Refused(404, "NotFound", f"{resource} {name!r} not found")
        if verb == "delete":
            return delete_job(api, name, json.loads(raw or b"{}"))
        return store[name]


def watch_lines(api: KubeApi, query: dict[str, str]) -> Generator[bytes | None]:
    """Events of one job; None breaks the connection off."""
    version = int(query["resourceVersion"])
    wanted = query["fieldSelector"].removeprefix("metadata.name=")
    until = time.monotonic() + int(query["timeoutSeconds"])
    generation = api.generation
    if api.too_old_watches:
        api.too_old_watches -= 1
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
        return
    while time.monotonic() < until:
        with api.changed:
            fresh = [e for e in api.events if e[0] > version and e[2]["metadata"]["name"] == wanted]
            if not fresh and api.generation == generation:
                if api.watch_ends:
                    api.watch_ends -= 1
                    return
                api.changed.wait(0.2)
        if api.generation != generation:
            yield None
            return
        for version, kind, job in fresh:  # noqa: B007  (the next look begins after the last)
            yield json.dumps({"type": kind, "object": job}).encode() + b"\n"


def log_lines(api: KubeApi, name: str, query: dict[str, str]) -> Generator[bytes]:
    """A pod's log from a second on, to its end or as it grows."""
    since = datetime.fromisoformat(query.get("sinceTime", "1970-01-01T00:00:00Z"))
    position = 0
    if "tailLines" in query:
        position = max(0, len(api.logs[name]) - int(query["tailLines"]))
    while True:
        with api.changed:
            fresh = api.logs.get(name, [])[position:]
            done = api.pods.get(name, {"status": {"phase": "Gone"}})["status"]["phase"] != "Running"
            if not fresh and not done and query.get("follow") == "true":
                api.changed.wait(0.2)
        for stamp, text in fresh:
            position += 1
            if stamp >= since:
                nano = stamp.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
                yield f"{nano} {text}\n".encode()
        if not fresh and (done or query.get("follow") != "true"):
            return


def handler_of(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                self.serve(raw)
            except Refused as refused:
                body = {"kind": "Status", "code": refused.status, "reason": refused.reason}
                self.whole(refused.status, body | {"message": str(refused)})
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def serve(self, raw: bytes) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            if api.failures:
                raise Refused(api.failures.pop(0), "InternalError", "planted failure")
            verb, resource, name, query = route(api, self.command, self.path)
            if verb == "watch":
                self.stream(watch_lines(api, query))
            elif resource == "pods/log":
                if name not in api.pods:
                    raise Refused(404, "NotFound", f"pods {name!r} not found")
                self.stream(log_lines(api, name, query), log_of=name)
            else:
                self.whole(200, answer(api, verb, resource, name, query, raw))

        def whole(self, status: int, body: Object) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def stream(self, lines: Generator[bytes | None], *, log_of: str = "") -> None:
            limit = api.log_breaks.pop(0) if log_of and api.log_breaks else None
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in lines:
                if line is None or (limit is not None and len(line) > limit):
                    rest = (line or b"")[: limit or 0]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(rest), rest) if rest else b"")
                    self.close_connection = True
                    return
                limit = limit if limit is None else limit - len(line)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                with api.changed:
                    api.num_sent[log_of] += 1
                    api.changed.notify_all()
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_DELETE = handle_one

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed, or tired of a stream, just go."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def kube_api(folder: Path, **settings: Any) -> Generator[tuple[KubeApi, dict[str, str]]]:
    """Run the stand-in; with it comes the environment of a launching pod, kubeconfig included."""
    api = KubeApi(**settings)
    server = Server(("127.0.0.1", 0), handler_of(api))
    api.host = f"http://127.0.0.1:{server.server_address[1]}"
    names = {"cluster": "stand-in", "user": "launcher", "namespace": NAMESPACE}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "stand-in", "cluster": {"server": api.host}}],
        "users": [{"name": "launcher", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": names}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api, {"KUBECONFIG": str(folder / "kubeconfig"), "KFP_POD_NAME": LAUNCHER}
    finally:
        api.drop_watches()
        server.shutdown()
        server.server_close()
        thread.join()
        for actor in api.actors:
            actor.join(60)
