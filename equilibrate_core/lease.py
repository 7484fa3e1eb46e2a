"""A lease on a folder: one process at a time writes there, and a dead one's is taken over.

It is an object written on a condition (absent, or unchanged since it was read), so of several
takers one wins; its holder renews it, and notices when another has taken it. Whether it is still
renewed, a taker finds out by watching it: clocks of two machines are never compared.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equilibrate_core.checkpoint_store import Store
from equilibrate_core.errors import StageError, StorageError
from equilibrate_core.s3_uris import join_uri

NAME = "lease.json"
LENGTH_S = 60.0
"""Seconds without a renewal after which a lease counts as left behind."""
MAX_REFUSALS = 10
"""Writes of a lease that nobody seems to hold, before the one who wants it gives up."""
PAUSE_S = 0.1
logger = logging.getLogger(__name__)


class Lease:
    """A held lease; `check` raises once another process has it."""

    def __init__(self, store: Store, *, length_s: float = LENGTH_S) -> None:
        self.store, self.length_s = store, length_s
        self.owner = uuid.uuid4().hex[:12]
        self._tag = ""
        self._lost = False
        self._ended = threading.Event()

    @contextmanager
    def held(self) -> Generator["Lease"]:
        """Take the lease, renew it in the background, and give it back at the end.

        Waits until a lease whose holder may be dead has not been renewed for its length. Raises
        StageError when the holder turns out to be alive.
        """
        self._acquire()
        renewing = threading.Thread(target=self._renew_until_ended, daemon=True)
        renewing.start()
        try:
            yield self
        finally:
            self._ended.set()
            renewing.join()
            self._give_back()

    def check(self) -> None:
        """Raise StageError when another process has taken the lease."""
        if self._lost:
            raise StageError(
                f"{self.store.uri}: another process took these checkpoints over; this one stops"
            )

    def _acquire(self) -> None:
        tag = self.store.put_if_absent(NAME, self._content())
        first: str | None = None
        first_seen = time.monotonic()
        refusals = 0
        while tag is None:
            found = self.store.read(NAME)
            holder: dict[str, Any] = json.loads(found[0]) if found else {}
            if found and first is None:
                first, first_seen = found[1], time.monotonic()
            if found and found[1] != first:
                raise StageError(
                    f"{self.store.uri}: held by a live run on {holder.get('host')} (process "
                    f"{holder.get('pid')}); stop that one, or give another checkpoint_uri"
                )
            left = first_seen + holder.get("length_s", LENGTH_S) - time.monotonic()
            if found and left > 0 and not holder.get("given_back") and not _is_dead(holder):
                self._wait(left)
                continue
            self._pause(refusals)
            refusals, first = refusals + 1, None
            if found is None:  # it went between the refusal and the look
                tag = self.store.put_if_absent(NAME, self._content())
            else:
                tag = self.store.replace_if_match(NAME, self._content(), found[1])
        self._tag = tag

    def _pause(self, refusals: int) -> None:
        """Wait before a write that was refused so often, the longer the oftener."""
        if refusals == MAX_REFUSALS:
            raise StageError(
                f"{join_uri(self.store.uri, NAME)}: was taken or removed by others during "
                f"{MAX_REFUSALS} tries to write it; see who does, or give another checkpoint_uri"
            )
        time.sleep(min(refusals * PAUSE_S, 1.0))

    def _give_back(self) -> None:
        if self._lost:
            return
        try:
            self.store.replace_if_match(NAME, self._content(given_back=True), self._tag)
        except (StorageError, OSError) as error:  # it runs out by itself
            logger.warning("%s: could not give the lease back: %s", self.store.uri, error)

    def _wait(self, left: float) -> None:
        logger.info("%s: waiting up to %.0f s for a lease to run out", self.store.uri, left)
        time.sleep(max(0.05, min(left, 1.0)))

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self.length_s / 4):
            try:
                tag = self.store.replace_if_match(NAME, self._content(), self._tag)
            except (StorageError, OSError) as error:
                logger.warning("%s: could not renew the lease: %s", self.store.uri, error)
                continue
            if tag is None:
                self._lost = True
                return
            self._tag = tag

    def _content(self, *, given_back: bool = False) -> bytes:
        record = {
            "owner": self.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": _process(os.getpid()),
            "length_s": self.length_s,
            "given_back": given_back,
            "write": uuid.uuid4().hex,  # so that a renewal always differs from the one before it
        }
        return json.dumps(record).encode()


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, in this container, and runs no more."""
    here = _process(os.getpid()).rsplit(" ", 1)[0]
    process = str(holder.get("process", ""))
    return process.rsplit(" ", 1)[0] == here != "" and process != _process(int(holder["pid"]))


def _process(pid: int) -> str:
    """Boot, process namespace and start time of a process; no start time when it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{boot} {space} gone"
    started = "gone" if status[0] in "ZX" else status[19]
    return f"{boot} {space} {started}"
