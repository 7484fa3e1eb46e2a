"""A reverse proxy before a real object store that spoils exchanges as it is told.

Faults: `500`, `503`, `timeout`, `reset` (before an answer), `lost` (after the store acted),
`broken` (reset within the answer's body), `truncated`, `corrupted` (one bit of an object's content,
up or down), `expired` (credentials).
"""

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>told to fail</Message></Error>'
REFUSALS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "expired": (400, "ExpiredToken"),
}
FAULTS = ("500", "503", "timeout", "reset", "lost", "broken", "truncated", "corrupted")


class FaultProxy:
    """A running proxy; `choose(method, path)` names the fault of each exchange, or none."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.choose: Callable[[str, str], str] = lambda method, path: ""
        self.silence_s = 1.0
        self.done: Counter[str] = Counter()
        """Faults that took effect."""
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Serve on a free loopback port until the block ends."""
    state = FaultProxy(upstream)

    class Handler(_Handler):
        proxy = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def _exchange(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with proxy.lock:
            proxy.requests.append((self.command, self.path))
            fault = proxy.choose(self.command, self.path)
        if fault in REFUSALS:
            self._count(fault)
            self._answer(REFUSALS[fault][0], {}, ERROR.format(REFUSALS[fault][1]).encode())
        elif fault == "timeout":
            self._count(fault)
            time.sleep(proxy.silence_s)
            self.close_connection = True
        elif fault == "reset":
            self._count(fault)
            self._reset()
        else:
            if fault == "corrupted" and self.command == "PUT" and body:
                self._count(fault)
                body, fault = _spoiled(body), ""
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _exchange

    def _forward(self, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(self.proxy.upstream.netloc, timeout=60)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            reply = upstream.getresponse()
            content = reply.read()
        finally:
            upstream.close()
        headers = {k: v for k, v in reply.getheaders() if k.lower() not in HOP_BY_HOP}
        if fault == "lost":
            self._count(fault)
            self._reset()
        elif fault in ("broken", "truncated") and len(content) > 1:
            self._count(fault)
            self._answer(reply.status, headers, content, cut=len(content) // 2)
            self._reset() if fault == "broken" else None
            self.close_connection = True
        elif fault == "corrupted" and self._is_object() and content:
            self._count(fault)
            self._answer(reply.status, headers, _spoiled(content))
        else:
            self._answer(reply.status, headers, content)

    def _is_object(self) -> bool:
        parts = urlsplit(self.path)
        return self.command == "GET" and not parts.query and parts.path.count("/") > 1

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, *, cut: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
            self.wfile.flush()

    def _reset(self) -> None:
        # Closing with unsent time zero sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _count(self, fault: str) -> None:
        with self.proxy.lock:
            self.proxy.done[fault] += 1

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the client gave up, or it was reset above
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


def _spoiled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
