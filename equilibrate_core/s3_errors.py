"""What an object store's refusals mean: one line with the URI, what is wrong and the mend."""

from collections.abc import Generator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    FlexibleChecksumError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from equilibrate_core.errors import AlteredError, StorageError
from equilibrate_core.s3_retries import BROKEN_BODIES, AlteredContent

DENIED = "access denied", "give this access key the right, or use another AWS_ACCESS_KEY_ID"
NO_OBJECT = "no such object", "check the key"
REPLACED = "the object was replaced meanwhile", "try again"
BUSY = "the store cannot serve the request now", "try again later"
MEANINGS: dict[str, tuple[str, str]] = {
    "InvalidAccessKeyId": ("wrong access key: unknown to the store", "check AWS_ACCESS_KEY_ID"),
    "SignatureDoesNotMatch": (
        "wrong secret: it does not belong to the access key",
        "check AWS_SECRET_ACCESS_KEY",
    ),
    "AccessDenied": DENIED,
    "403": DENIED,
    "NoSuchBucket": ("no such bucket", "create it or correct its name"),
    "NoSuchKey": NO_OBJECT,
    "404": NO_OBJECT,
    "ExpiredToken": ("the session token has expired", "renew AWS_SESSION_TOKEN"),
    "InvalidToken": ("the session token is not valid", "check AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": ("this machine's clock is off", "set the clock"),
    "PermanentRedirect": ("the bucket is in another region", "check AWS_REGION"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "check AWS_REGION"),
    "BadDigest": ("the content arrived altered", "try again"),
    "PreconditionFailed": REPLACED,
    "412": REPLACED,
    "BucketAlreadyExists": ("someone else owns this bucket", "choose another name"),
    "SlowDown": BUSY,
    "ServiceUnavailable": BUSY,
    "InternalError": BUSY,
    "500": BUSY,
    "503": BUSY,
}


@contextmanager
def storage_errors(uri: str) -> Generator[None]:
    """Turn any failure of boto3 inside the block into a StorageError that names `uri`."""
    try:
        yield
    except ClientError as error:
        raise StorageError(f"{uri}: {_refusal(error)}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageError(
            f"{uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (AlteredContent, FlexibleChecksumError) as error:
        line = _one_line(error)
        raise AlteredError(line if line.startswith(uri) else f"{uri}: {line}") from error
    except BROKEN_BODIES as error:
        raise StorageError(
            f"{uri}: the transfer broke off every time ({_one_line(error)}); try again later"
        ) from error
    except (EndpointConnectionError, ConnectTimeoutError, BotoConnectionError) as error:
        raise StorageError(
            f"{uri}: cannot reach the object store ({_one_line(error)}); check AWS_ENDPOINT_URL_S3 "
            "and that it runs"
        ) from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"{uri}: {_one_line(error)}") from error
    except ValueError as error:
        if "endpoint" not in str(error).lower():
            raise
        raise StorageError(f"{uri}: {error}; check AWS_ENDPOINT_URL_S3") from error


def _refusal(error: ClientError) -> str:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    if code in MEANINGS:
        what, mend = MEANINGS[code]
        return f"{what} ({code}); {mend}"
    return f"{_one_line(error)}; see the store's log for code {code}"


def _one_line(error: Exception) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, Boto3Error) and isinstance(cause, ClientError):
        return _refusal(cause)  # uploads wrap the store's refusal in an error of their own
    return " ".join(str(error).split())
