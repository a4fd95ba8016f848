"""The model endpoint of the benchmark: Chat Completions as server-sent events, in a process of its own.

`python -m lash_tasks.bench.endpoint` listens on a free port of 127.0.0.1, prints it, and serves until its input
closes. It never parses a whole request: with a long history that would cost more than what is measured. A model named
`delay-N` answers after N milliseconds. `POST /arm` lets the next first call of the model `held` hang until its client
goes away; `GET /state` says how many did.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from typing import cast

from lash_tasks.bench.workload import ANSWER_PIECES, HELD_MODEL, ORDER, TOOL

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?"([^"]*)"')
_ROLE = b'"role":'
_MODEL_AT = b'"model":'
_HEAD_END = b"\r\n\r\n"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, object] | None, finish_reason: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    body = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "model": "bench", "choices": choices, **more}
    return _chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


_END = (
    _event(None, usage={"prompt_tokens": 120, "completion_tokens": 20, "total_tokens": 140})
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


def _call(index: int, **fields: object) -> dict[str, object]:
    return {"tool_calls": [{"index": index, **fields}]}


TOOL_REPLY = (
    _STREAM
    + _event(_call(0, id="call_1", type="function", function={"name": TOOL, "arguments": ""}) | {"role": "assistant"}),
    _event(_call(0, function={"arguments": json.dumps({"order_id": ORDER})})),
    _event({}, "tool_calls") + _END,
)
TEXT_REPLY = (
    _STREAM + _event({"role": "assistant", "content": ""}),
    *(_event({"content": piece}) for piece in ANSWER_PIECES),
    _event({}, "stop") + _END,
)


class Endpoint:
    """What all connections share."""

    def __init__(self) -> None:
        self.requests = 0
        self.armed = 0
        self.held = 0

    def state(self) -> dict[str, int]:
        return {"requests": self.requests, "armed": self.armed, "held": self.held}


class Connection(asyncio.Protocol):
    """One client connection: HTTP/1.1 with Content-Length, one request after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = bytearray()
        self._wanted = 0
        self._body_at = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._wanted:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            length = _LENGTH.search(self._buffer, 0, end + 2)
            self._body_at = end + len(_HEAD_END)
            self._wanted = self._body_at + (int(length[1]) if length else 0)
        if len(self._buffer) >= self._wanted:
            self._answer()
            del self._buffer[: self._wanted]
            self._wanted = 0

    def _answer(self) -> None:
        line = bytes(self._buffer[: self._buffer.find(b"\r\n")])
        if b"/chat/completions" in line:
            self._complete()
            return
        if b"/arm" in line:
            self._endpoint.armed += 1
        body = json.dumps(self._endpoint.state()).encode()
        self._send(
            (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body,)
        )

    def _complete(self) -> None:
        endpoint, buffer = self._endpoint, self._buffer
        endpoint.requests += 1
        model = _model(buffer, self._body_at)
        role = buffer.rfind(_ROLE, self._body_at, self._wanted)
        after_tool = buffer[role : role + 16].split(b'"')[3:4] == [b"tool"]
        if model == HELD_MODEL and endpoint.armed and not after_tool:
            endpoint.armed -= 1
            endpoint.held += 1
            return
        reply = TEXT_REPLY if after_tool else TOOL_REPLY
        delay_ms = int(model[6:]) if model.startswith("delay-") else 0
        if delay_ms:
            asyncio.get_running_loop().call_later(delay_ms / 1000, self._send, reply)
        else:
            self._send(reply)

    def _send(self, pieces: tuple[bytes, ...]) -> None:
        for piece in pieces:
            if self._transport is not None:
                self._transport.write(piece)


def _model(buffer: bytearray, body_at: int) -> str:
    """The model's name: at the front of what we send, elsewhere in what others do."""
    found = _MODEL.search(buffer, body_at, body_at + 200) or _MODEL.search(buffer, max(buffer.rfind(_MODEL_AT), 0))
    return found[1].decode() if found else ""


async def serve() -> None:
    """Serve until the input closes."""
    loop, stop, endpoint = asyncio.get_running_loop(), asyncio.Event(), Endpoint()

    def wait_for_parent() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    server = await loop.create_server(lambda: Connection(endpoint), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=wait_for_parent, daemon=True).start()
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
