"""Clients of the object store, from the process's environment.

Endpoint, region and credentials come from the standard environment variables alone
(AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN), or from the role of the pod; never from a config.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config as BotoConfig

from equilibrate_core.s3_errors import storage_errors

MAX_ATTEMPTS = 5
"""Tries a request gets before its error counts; AWS_MAX_ATTEMPTS overrides it."""
TIMEOUT_S = 60.0
"""Seconds of silence after which a request is repeated; EQUILIBRATE_S3_TIMEOUT_S overrides it."""
SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_MAX_ATTEMPTS",
    "EQUILIBRATE_S3_TIMEOUT_S",
)


def connect(environment: Mapping[str, str] | None = None) -> Any:
    """A boto3 S3 client for the given environment variables (default: the process's own)."""
    values = os.environ if environment is None else environment
    return _client(tuple(values.get(name) or None for name in SETTINGS))


@lru_cache(maxsize=8)
def _client(settings: tuple[str | None, ...]) -> Any:
    known = dict(zip(SETTINGS, settings, strict=True))
    endpoint = known["AWS_ENDPOINT_URL_S3"] or known["AWS_ENDPOINT_URL"]
    attempts = int(known["AWS_MAX_ATTEMPTS"] or MAX_ATTEMPTS)
    on_loopback = urlsplit(endpoint or "").hostname in ("127.0.0.1", "localhost")
    with storage_errors(endpoint or "s3://"):
        return boto3.Session().client(
            "s3",
            endpoint_url=endpoint,
            # boto3 itself reads AWS_DEFAULT_REGION only, pods are given AWS_REGION.
            region_name=known["AWS_REGION"] or known["AWS_DEFAULT_REGION"] or "us-east-1",
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=known["AWS_SESSION_TOKEN"],
            config=BotoConfig(
                retries={"mode": "standard", "total_max_attempts": attempts},
                connect_timeout=5,
                read_timeout=float(known["EQUILIBRATE_S3_TIMEOUT_S"] or TIMEOUT_S),
                max_pool_connections=16,
                proxies={} if on_loopback else None,  # no proxy leads to this machine
                # Stores behind an own endpoint rarely have a host name for every bucket.
                s3={"addressing_style": "path" if endpoint else "auto"},
            ),
        )
