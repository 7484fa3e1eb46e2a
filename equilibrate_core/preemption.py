"""SIGTERM: remembered while training, so that the step in hand is finished and saved.

Elsewhere it may raise, so that what was begun is tidied up.
"""

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

logger = logging.getLogger(__name__)


@dataclass
class Preemption:
    """Whether this process was told to stop."""

    requested: bool = False


@contextmanager
def watch_for_preemption(*, enabled: bool) -> Generator[Preemption]:
    """Within the block SIGTERM only sets `requested`; elsewhere it ends the process as usual."""
    preemption = Preemption()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield preemption
        return

    def request(number: int, frame: FrameType | None) -> None:
        preemption.requested = True

    before = signal.signal(signal.SIGTERM, request)
    try:
        yield preemption
    finally:
        signal.signal(signal.SIGTERM, before)


class ToldToStop(BaseException):
    """SIGTERM came."""


@contextmanager
def sigterm_raises() -> Generator[None]:
    """Within the block SIGTERM raises ToldToStop, once; elsewhere it ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may be sent to every process
        raise ToldToStop

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
