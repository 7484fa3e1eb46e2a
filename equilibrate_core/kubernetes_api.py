"""Speaking to Kubernetes: a connection, patience where waiting may help, refusals in one line.

A pod's service account (or a kubeconfig) -> a Cluster. An API server that is away is waited for:
what runs on the cluster runs on without it.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from equilibrate_core.errors import ConfigError, StageError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CALL_TIMEOUT_S = (10, 60)
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """A connection, and the namespace that everything happens in."""

    namespace: str
    custom: client.CustomObjectsApi
    core: client.CoreV1Api


def connect() -> Cluster:
    """The cluster this pod runs in, or that of KUBECONFIG. Raises ConfigError without either."""
    configuration: Any = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
            namespace = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        else:
            file = os.environ.get("KUBECONFIG")  # the client reads it once, when it is imported
            config.load_kube_config(file, client_configuration=configuration)
            context = config.list_kube_config_contexts(file)[1]["context"]
            namespace = str(context.get("namespace", "default"))
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"no Kubernetes cluster: {error}; several nodes train in a TrainJob on a cluster: run "
            "this pipeline there, or set num_nodes: 1"
        ) from error
    configuration.retries = False  # tried again here, with pauses
    api = client.ApiClient(configuration)
    return Cluster(namespace, client.CustomObjectsApi(api), client.CoreV1Api(api))


def passes(error: Exception) -> bool:
    """Whether waiting may help."""
    if isinstance(error, ApiException):
        return error.status in PASSING_STATUSES or not error.status
    return isinstance(error, HTTPError | ConnectionError)


def patiently(what: str, call: Callable[[], T], *, rounds: int | None = None) -> T:
    """Call until Kubernetes answers, for ever or `rounds` times; longer and longer pauses.

    Raises ConfigError when it refuses, StageError when the rounds are used up.
    """
    attempt, delay_s = 0, FIRST_DELAY_S
    while True:
        attempt += 1
        try:
            return call()
        except (ApiException, HTTPError, ConnectionError) as error:
            if not passes(error):
                raise refusal(what, error) from error
            if attempt == rounds:
                raise StageError(f"{what}: Kubernetes does not answer: {reason(error)}") from error
            logger.warning("%s: %s; trying again in %.0f s", what, reason(error), delay_s)
        time.sleep(delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


def refusal(what: str, error: Exception) -> ConfigError:
    """What a user is told when Kubernetes says no."""
    status = getattr(error, "status", None)
    rights = status in (401, 403)
    mend = "; give the pod's account the role of manifests/base/rbac.yaml" if rights else ""
    return ConfigError(f"{what}: Kubernetes refused ({status}): {reason(error)}{mend}")


def reason(error: Exception) -> str:
    """The server's own words, or what became of the connection, on one line."""
    if isinstance(error, ApiException):
        try:
            return str(json.loads(error.body or "{}")["message"])
        except (ValueError, KeyError, TypeError):
            return f"{error.status} {error.reason}"
    return " ".join(str(error).split())[:200] or type(error).__name__
