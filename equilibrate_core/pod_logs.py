"""The log of a job's first node, followed through broken connections and restarts, no line twice.

A job's name -> its lines, one by one, until the job has ended and the log is read to its end.
"""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from equilibrate_core.kubernetes_api import Cluster, reason
from equilibrate_core.redaction import redact
from equilibrate_core.train_job_api import node_pods, open_log

POLL_S = 2.0
SILENCE_S = 300.0
"""Seconds without a line after which the log is asked for anew: the connection may be dead."""
LAST_TRIES = 10
LAST_WAIT_S = 30.0
TAIL_LINES = 40
STARTED = ("Running", "Succeeded", "Failed")
BREAKS = (ApiException, HTTPError, ConnectionError)
Write = Callable[[str], None]
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ?")
logger = logging.getLogger(__name__)


@contextmanager
def streamed_log(cluster: Cluster, job: str, write: Write) -> Generator[None]:
    """Hand the first node's lines to `write`, secrets hidden, for the length of the block.

    What was logged before the block's end is still handed over; an error inside ends it at once.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(cluster, job, write, ended), daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join(LAST_WAIT_S)


def write_tails(cluster: Cluster, job: str, write: Write) -> None:
    """The last lines of every failed node but the first, whose log was followed."""
    try:
        for pod in node_pods(cluster, job):
            node = pod.metadata.labels.get("batch.kubernetes.io/job-completion-index", "?")
            if pod.status.phase != "Failed" or node == "0":
                continue
            write(f"--- node {node}, the end of its log:")
            query = {"tailLines": str(TAIL_LINES)}
            for line in _lines(open_log(cluster, pod.metadata.name, query, SILENCE_S)):
                write(redact(_text(line)))
    except BREAKS as error:
        logger.warning("TrainJob %s: no more logs: %s", job, reason(error))


class SeenLines:
    """Which lines of a pod were handed over: a new connection repeats those of a second or two."""

    def __init__(self) -> None:
        self._pod = ""
        self._last = 0
        self._shown: Counter[str] = Counter()

    def is_new_pod(self, pod: str) -> bool:
        """Begin with another pod if it is one; whether an earlier one was read before."""
        if pod == self._pod:
            return False
        again = self._pod != ""
        self._pod, self._last = pod, 0
        self._shown.clear()
        return again

    def since(self) -> dict[str, str]:
        """From when on to ask; the server counts in whole seconds, and threads may swap lines."""
        if not self._last:
            return {}
        moment = datetime.fromtimestamp(self._last - 1, UTC)
        return {"sinceTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def new_lines(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines of one connection that no earlier one had."""
        known = Counter(self._shown)
        for line in lines:
            if known[line] > 0:
                known[line] -= 1
                continue
            self._last = max(self._last, _second(line))
            for old in [x for x in self._shown if _second(x) < self._last - 1]:
                del self._shown[old]
            self._shown[line] += 1
            yield line


def _follow(cluster: Cluster, job: str, write: Write, ended: threading.Event) -> None:
    seen = SeenLines()
    tries_left = LAST_TRIES
    while tries_left:
        last = ended.is_set()
        try:
            _read_newest(cluster, job, seen, write, last=last)
            if last:
                return
        except BREAKS as error:
            logger.info("TrainJob %s: log broke off: %s", job, reason(error))
        if last:
            tries_left -= 1
            time.sleep(POLL_S / 4)
        ended.wait(POLL_S)


def _read_newest(cluster: Cluster, job: str, seen: SeenLines, write: Write, *, last: bool) -> None:
    """Read the log of node 0's newest pod until it stops; restarts change the pod."""
    pods = [pod for pod in node_pods(cluster, job, 0) if pod.status.phase in STARTED]
    if not pods:
        return
    name = pods[0].metadata.name
    if seen.is_new_pod(pods[0].metadata.uid):
        write(f"--- node 0 was started again, as pod {name}")
    query = {"follow": "false" if last else "true", **seen.since()}
    stream = open_log(cluster, name, query, SILENCE_S)
    try:
        for line in seen.new_lines(_lines(stream, rest=last)):
            write(redact(_text(line)))
    finally:
        stream.release_conn()


def _lines(stream: Any, *, rest: bool = True) -> Iterator[str]:
    """Whole lines of a stream; what follows the last newline only if `rest`: more may come."""
    buffer = b""
    for chunk in stream.stream(65536):
        *whole, buffer = (buffer + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if buffer and rest:
        yield buffer.decode(errors="replace")


def _text(line: str) -> str:
    """A line without its time."""
    return _STAMP.sub("", line, count=1) if _STAMP.match(line) else line


def _second(line: str) -> int:
    """Second of a line's time; 0 without one."""
    match = _STAMP.match(line)
    if match is None:
        return 0
    zone = match[2].replace("Z", "+00:00")
    return int(datetime.fromisoformat(match[1] + zone).timestamp())
