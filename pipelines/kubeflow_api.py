"""The v2beta1 API of Kubeflow Pipelines: authenticated JSON calls with clear errors.

KFP_HOST, KFP_TOKEN and KFP_CA_FILE (or the token that Kubernetes mounts into a pod) -> objects.
Plain HTTPS instead of kfp.Client: that one prints, writes to the home folder and takes seconds.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3

from equilibrate_core.errors import ConfigError, EquilibrateError

API = "/apis/v2beta1"
IN_CLUSTER_HOST = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
TOKEN_PATH = "/var/run/secrets/kubeflow/pipelines/token"
PAGE_SIZE = 100


class ApiError(EquilibrateError):
    """Kubeflow refused a call or could not be reached."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class KubeflowApi:
    """Where the API is and how to speak to it."""

    host: str
    ui: str
    pool: urllib3.PoolManager

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        upload: bytes | None = None,
    ) -> dict[str, Any]:
        """One call; raises ApiError with the server's own reason, ConfigError for a bad token."""
        url = f"{self.host}{API}{path}"
        options: dict[str, Any] = {}
        if body is not None:
            options["json"] = body
        if upload is not None:
            part = ("pipeline.yaml", upload, "application/yaml")
            options |= {"fields": {"uploadfile": part}}
        if query:
            url += f"?{urlencode(query)}"
        try:
            for authorization in _authorizations(self.host):
                headers = {"Accept": "application/json", **authorization}
                reply = self.pool.request(method, url, headers=headers, **options)
                if reply.status != 401:
                    break
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{self.host}: Kubeflow did not answer: {_cause(error)}") from error
        if reply.status in (401, 403):
            raise ConfigError(
                f"{method} {url}: {reply.status}: {_reason(reply)}; check KFP_TOKEN (has it "
                "expired?) and the rights of its account"
            )
        if reply.status >= 400:
            raise ApiError(f"{method} {url}: {reply.status}: {_reason(reply)}", reply.status)
        try:
            return json.loads(reply.data or b"{}")
        except ValueError as error:
            raise ConfigError(
                f"{url}: answered with something else than JSON (a login page?); check KFP_HOST"
            ) from error

    def items(self, path: str, key: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """All objects of a list, page by page."""
        token = ""
        while True:
            page = {"page_size": str(PAGE_SIZE), **query} | ({"page_token": token} if token else {})
            reply = self.call("GET", path, query=page)
            yield from reply.get(key) or []
            token = reply.get("next_page_token") or ""
            if not token:
                return

    def named(self, path: str, key: str, name: str, **query: str) -> dict[str, Any] | None:
        """The one object of a display name, or None."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        only = query | {"filter": json.dumps({"predicates": [predicate]})}
        found = [x for x in self.items(path, key, only) if x.get("display_name") == name]
        return found[0] if found else None


def connect(host: str | None = None, ui: str | None = None) -> KubeflowApi:
    """The API at a host, by default KFP_HOST, else the cluster this process runs in.

    Certificates are always verified; KFP_CA_FILE names a private authority.
    """
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    found = host or os.environ.get("KFP_HOST") or (IN_CLUSTER_HOST if inside else "")
    if urlsplit(found).scheme not in ("http", "https"):
        raise ConfigError(
            f"host {found!r}: give the address of Kubeflow Pipelines as --host or KFP_HOST, e.g. "
            "https://kubeflow.example.com/pipeline"
        )
    ca_file = os.environ.get("KFP_CA_FILE")
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(f"KFP_CA_FILE: {ca_file}: no such file")
    found = found.rstrip("/")
    # Reads are tried again; a POST is not, since its first try may have worked; nor is a bad
    # certificate.
    again = (429, 502, 503, 504)
    retries = urllib3.Retry(
        total=4, other=0, backoff_factor=0.5, status_forcelist=again, raise_on_status=False
    )
    timeout = urllib3.Timeout(connect=10, read=60)
    pool = urllib3.PoolManager(
        cert_reqs="CERT_REQUIRED", ca_certs=ca_file, retries=retries, timeout=timeout
    )
    return KubeflowApi(found, (ui or os.environ.get("KFP_UI") or found).rstrip("/"), pool)


def _authorizations(host: str) -> list[dict[str, str]]:
    """Headers to try in turn: KFP_TOKEN's, then those of the file, of which one may have expired.

    The file is read anew for every call, because mounted tokens are rotated.
    """
    path = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN_PATH))
    given = [os.environ.get("KFP_TOKEN", "").strip()]
    if path.is_file():
        given.append(path.read_text(encoding="utf-8").strip())
    tokens = list(dict.fromkeys(token for token in given if token))
    if not tokens:
        return [{}]
    where = urlsplit(host)
    name = where.hostname or ""
    inside = name in ("127.0.0.1", "localhost", "::1") or name.endswith((".svc", ".cluster.local"))
    if where.scheme == "http" and not inside:
        raise ConfigError(
            f"{host}: a token would travel in the clear; use https://, or http:// on this machine "
            "or inside the cluster (*.svc.cluster.local)"
        )
    return [{"Authorization": f"Bearer {token}"} for token in tokens]


def _reason(reply: Any) -> str:
    try:
        body = reply.json()
        return str(body.get("message") or body.get("error") or body)[:500]
    except (ValueError, AttributeError):
        return reply.data[:200].decode(errors="replace")


def _cause(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
