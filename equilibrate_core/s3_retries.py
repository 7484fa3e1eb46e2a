"""Which failures of an object store pass by themselves, and how long to wait for that.

botocore repeats requests that were refused or never answered. What it cannot repeat is a body that
broke off, stalled or arrived altered: that is repeated here, piece by piece.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import ProtocolError
from urllib3.exceptions import ReadTimeoutError as StreamTimeoutError

logger = logging.getLogger(__name__)

ROUNDS = 5
"""Tries of one piece; each holds botocore's own tries of one request."""
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 20.0
PASSING_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "500",
        "502",
        "503",
        "504",
    }
)
T = TypeVar("T")


class AlteredContent(Exception):
    """What arrived is not what was sent."""


BROKEN_BODIES: tuple[type[Exception], ...] = (
    AlteredContent,
    ConnectionClosedError,
    ConnectionError,
    FlexibleChecksumError,
    IncompleteReadError,
    ProtocolError,
    ReadTimeoutError,
    ResponseStreamingError,
    StreamTimeoutError,
)


def passes(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code")) in PASSING_CODES
    return isinstance(error, BROKEN_BODIES)


def with_retries(what: str, action: Callable[[], T], *, rounds: int | None = None) -> T:
    """Do `action` until it succeeds, fails for good, or failed `rounds` (ROUNDS) times.

    Waits between tries, twice as long each time, by a random share so that many clients spread.
    """
    rounds = rounds or ROUNDS
    for attempt in range(1, rounds + 1):
        try:
            return action()
        except Exception as error:
            if attempt == rounds or not passes(error):
                raise
            delay_s = random.uniform(0.5, 1.0) * min(
                FIRST_DELAY_S * 2 ** (attempt - 1), LONGEST_DELAY_S
            )
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            logger.warning("%s: %s; try %d of %d", what, reason, attempt + 1, rounds)
            time.sleep(delay_s)
    raise AssertionError("unreachable")
