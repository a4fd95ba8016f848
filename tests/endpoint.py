"""A Chat Completions server that counts, for tests: in the test's process, or by itself for many workers.

In a test, a script says what each request is answered with, down to the bytes and the places where the server
stalls or hangs up. By itself (`python -m tests.endpoint --port N --log FILE --delay-ms D`) it holds the plain
conversation below and appends one JSON line a request to the log.

The plain conversation (`converse`): a user's text is answered with one call of the tool `lookup`, or of the first
one offered; the tool's result with `answer: <the user's text>`; without tools the text is answered at once. A text
that holds `[stall]` makes the first request of that text hang until the client goes away, `[stall 2]` the request
that follows the tool's result; asked again, both are answered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from lash_tasks.domain.codec import JsonObject


class Step(Enum):
    STALL = "stall"
    """Send nothing more until the client goes away."""
    CUT = "cut"
    """Hang up without ending the body."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request is answered with. Each piece of bytes is one chunk on the wire; a callable runs in between."""

    steps: Sequence[bytes | Step | Callable[[], object]] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    stall_before_headers: bool = False


@dataclass(slots=True)
class Seen:
    """One request. `gone_at` is when a stalled client went away, on the clock of `time.monotonic`."""

    path: str
    body: JsonObject
    headers: Mapping[str, str]
    gone_at: float | None = None


Script = Callable[[JsonObject], Reply]


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(index: int = 0, finish_reason: str | None = None, **fields: object) -> bytes:
    """One streamed chunk with one delta."""
    return event(choices=[{"index": index, "delta": fields, "finish_reason": finish_reason}])


def usage(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> bytes:
    return event(
        choices=[],
        usage={
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
    )


DONE = b"data: [DONE]\n\n"


def text_reply(*pieces: str) -> Reply:
    return Reply((*(delta(content=piece) for piece in pieces), delta(finish_reason="stop"), usage(10, 5), DONE))


def tool_reply(tool: str, arguments: JsonObject, call_id: str = "call_1") -> Reply:
    call = {"index": 0, "id": call_id, "type": "function", "function": {"name": tool, "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": json.dumps(arguments)}}
    ends = (delta(finish_reason="tool_calls"), usage(10, 5), DONE)
    return Reply((delta(tool_calls=[call]), delta(tool_calls=[rest]), *ends))


def error_reply(status: int, message: str, *, code: str | None = None, **headers: str) -> Reply:
    """An error; header names are written with underscores."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply((body,), status, {"Content-Type": "application/json", **named})


def json_reply(body: object, status: int = 200) -> Reply:
    return Reply((json.dumps(body).encode(),), status, {"Content-Type": "application/json"})


def last_user_text(request: JsonObject) -> str:
    for message in reversed(request["messages"]):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return "\n\n".join(block["text"] for block in content if block["type"] == "text")
    return ""


def call_number(request: JsonObject) -> int:
    """Which model call of its turn this is: 1, and one more for each round of tool results after the user's text."""
    rounds = 0
    for message in reversed(request["messages"]):
        if message["role"] == "user":
            break
        rounds += message["role"] == "assistant"
    return rounds + 1


def converse(request: JsonObject) -> Reply:
    """The plain conversation, without stalls."""
    text = last_user_text(request)
    tools = [tool["function"] for tool in request.get("tools", [])]
    if not tools or request["messages"][-1]["role"] == "tool":
        return text_reply(f"answer: {text}")
    tool = next((tool for tool in tools if tool["name"] == "lookup"), tools[0])
    return tool_reply(tool["name"], _arguments(tool["parameters"], text))


def _arguments(schema: JsonObject, text: str) -> JsonObject:
    """The user's text for the first string parameter, something of its type for each other required one."""
    filler = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}, "string": text}
    properties: JsonObject = schema.get("properties", {})
    first = next((name for name, value in properties.items() if value.get("type") == "string"), None)
    wanted = {first, *schema.get("required", [])} - {None}
    return {name: filler.get(value.get("type"), text) for name, value in properties.items() if name in wanted}


class Stalling:
    """The plain conversation with its stalls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stalled: set[tuple[str, int]] = set()

    def __call__(self, request: JsonObject) -> Reply:
        text, number = last_user_text(request), call_number(request)
        marker = re.search(r"\[stall(?: (\d+))?\]", text)
        if marker and int(marker[1] or 1) == number:
            with self._lock:
                first = (text, number) not in self._stalled
                self._stalled.add((text, number))
            if first:
                return Reply(stall_before_headers=True)
        return converse(request)


class ModelEndpoint:
    """A Chat Completions server on 127.0.0.1 for as long as the `with` lasts."""

    def __init__(self, script: Script = converse, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._lock = threading.Lock()
        self._requests: list[Seen] = []
        self._connections: set[socket.socket] = set()
        self.accepted = 0
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self) -> list[Seen]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._connections)

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def seen(self, request: Seen) -> None:
        with self._lock:
            self._requests.append(request)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
            self._connections.add(connection)
            if self._stopping.is_set():
                _shut(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def wait_until_gone(self, connection: socket.socket) -> float | None:
        """When the client closed `connection`; None if the server stops first."""
        while not self._stopping.is_set():
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable and not _peek(connection):
                return time.monotonic()
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], endpoint: ModelEndpoint, tls: ssl.SSLContext | None) -> None:
        super().__init__(address, _Handler)
        self.endpoint = endpoint
        self._tls = tls

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Secured here and not in `get_request`, so that a client that never shakes hands stalls only itself."""
        assert isinstance(request, socket.socket)
        try:
            if self._tls is not None:
                request = self._tls.wrap_socket(request, server_side=True)
        except OSError:
            request.close()
            return
        self.endpoint.opened(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.endpoint.closed(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-answer is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = Seen(self.path, body, {name.lower(): value for name, value in self.headers.items()})
        endpoint.seen(seen)
        reply = endpoint.script(body)
        if reply.stall_before_headers:
            self._stall(seen)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for step in reply.steps:
            match step:
                case bytes():
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step))
                case Step.STALL:
                    self._stall(seen)
                    return
                case Step.CUT:
                    self.close_connection = True
                    return
                case _:
                    step()
        self.wfile.write(b"0\r\n\r\n")

    def _stall(self, seen: Seen) -> None:
        self.close_connection = True
        seen.gone_at = self.server.endpoint.wait_until_gone(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        """The requests are the log."""


def _peek(connection: socket.socket) -> bool:
    """Whether the client sent something, rather than its goodbye."""
    try:
        if isinstance(connection, ssl.SSLSocket):
            return bool(connection.recv(1))
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _shut(connection: socket.socket) -> None:
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        return


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--delay-ms", type=int, default=0)
    options = parser.parse_args()
    script, stop = Stalling(), threading.Event()

    def logged(request: JsonObject) -> Reply:
        line = {
            "marker": last_user_text(request),
            "call": call_number(request),
            "at_ms": time.time_ns() // 1_000_000,
        }
        os.write(log, json.dumps(line).encode() + b"\n")
        stop.wait(options.delay_ms / 1000)
        return script(request)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    endpoint = ModelEndpoint(logged, port=options.port)
    # After the server listens: whoever waits for the file may connect.
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with endpoint:
        stop.wait()
    os.close(log)


if __name__ == "__main__":
    main()
