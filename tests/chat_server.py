"""A strict stand-in for an OpenAI-compatible server: real HTTP on loopback, faults on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KNOWN_FIELDS = frozenset({
    "model", "messages", "temperature", "top_p", "max_tokens", "seed", "response_format",
    "logprobs", "top_logprobs",
})  # fmt: skip
Answer = Callable[[dict[str, Any]], str | None]
"""From the request's body to the content; None as from a model that was still thinking."""


def first_allowed(body: dict[str, Any]) -> str:
    """An obedient model: the first value the schema allows, or an echo without a schema."""
    if "response_format" not in body:
        return "echo: " + body["messages"][-1]["content"]
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    return json.dumps({k: v["enum"][0] if "enum" in v else "reason" for k, v in properties.items()})


@dataclass
class ChatServer:
    """State of a running server; `faults` are used up one per request, then `answer` speaks."""

    key: str | None = "secret-key"
    model: str = "judge"
    known_fields: frozenset[str] = KNOWN_FIELDS
    response_format: str = "json_schema"
    """The only type of response_format that it takes."""
    answer: Answer = first_allowed
    faults: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    most_in_flight: int = 0
    finish_reason: str = "stop"
    chars_per_token: int = 0
    """Characters of the shortest tokens: `max_tokens` of them and no more are answered; 0: all."""
    refused: str | None = None
    """A message that a moderating gateway refuses."""
    logprobs: Callable[[str], list[dict[str, Any]]] = lambda text: []
    delay_s: float = 0.0
    retry_after: str | None = None
    """What the header of that name says in answers that are errors."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_flight: int = 0


@contextmanager
def chat_server(**options: Any) -> Iterator[ChatServer]:
    """Serve on a free loopback port until the block ends."""
    state = ChatServer(**options)

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.bodies.append(body)
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
            fault = state.faults.pop(0) if state.faults else ""
        try:
            self._respond(state, body, fault)
        finally:
            with state.lock:
                state.in_flight -= 1

    def _respond(self, state: ChatServer, body: dict[str, Any], fault: str) -> None:
        time.sleep(state.delay_s)
        if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
            given = self.headers.get("Authorization")
            self._send(401, {"error": {"message": f"incorrect key {given}"}})
        elif self.path != "/v1/chat/completions" or body.get("model") != state.model:
            self._send(404, {"error": {"message": "no such path or model"}})
        elif unknown := sorted(set(body) - state.known_fields):
            self._send(400, {"error": {"message": f"unknown fields {unknown}"}})
        elif problem := _format_problem(state.response_format, body):
            self._send(400, {"error": {"message": problem}})
        elif body["messages"][-1]["content"] == state.refused:
            self._send(403, {"error": {"message": "the input was flagged"}})
        elif fault == "hang":
            time.sleep(1.0)
            self.close_connection = True
        elif fault == "drop":
            self.close_connection = True
        elif fault == "garbage":
            self._send_bytes(200, b'{"choices": [{"mess')
        elif fault == "empty":
            self._send(200, {"choices": []})
        elif fault == "leak":
            self._send(400, {"error": {"message": "bad " + self.headers["Authorization"]}})
        elif fault:
            self._send(int(fault), {"error": {"message": f"told to answer {fault}"}})
        else:
            self._send(200, _completion(state, body))

    def _send(self, status: int, value: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(value).encode())

    def _send_bytes(self, status: int, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if status >= 400 and self.server_state.retry_after:
            self.send_header("Retry-After", self.server_state.retry_after)
        self.end_headers()
        try:
            self.wfile.write(payload)
        except BrokenPipeError:  # a client that was killed while it waited
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


def _format_problem(known: str, body: dict[str, Any]) -> str | None:
    """What OpenAI's strict mode would refuse about the response format."""
    if "response_format" not in body:
        return None
    response_format = body["response_format"]
    if response_format == {"type": "json_object"} == {"type": known}:
        told = any("JSON" in message["content"] for message in body["messages"])
        return None if told else "'messages' must contain the word 'JSON'"
    if known != "json_schema":
        return f"response_format must be {known}"
    json_schema = response_format.get("json_schema", {})
    schema = json_schema.get("schema", {})
    if response_format.get("type") != "json_schema" or not json_schema.get("name"):
        return "response_format must be a named json_schema"
    if schema.get("type") != "object" or schema.get("additionalProperties") is not False:
        return "the root must be a closed object"
    if sorted(schema["required"]) != sorted(schema["properties"]):
        return "every property must be required"
    if "maxLength" in json.dumps(schema):
        return "maxLength is not supported"
    return None


def _completion(state: ChatServer, body: dict[str, Any]) -> dict[str, Any]:
    content, finish_reason = state.answer(body), state.finish_reason
    room = state.chars_per_token * body.get("max_tokens", 0)
    if content is not None and 0 < room < len(content):
        content, finish_reason = content[:room], "length"
    message = {"role": "assistant", "content": content}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish_reason}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": state.logprobs(content or "")}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": state.model,
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10},
    }
