"""What the provider tests share: requests, a stream that remembers, and a provider for an endpoint."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pydantic import SecretStr

from lash_tasks.clock import Clock, FakeClock
from lash_tasks.domain.agents import ToolSpec
from lash_tasks.domain.ids import BlobRef, SessionId, TurnId
from lash_tasks.domain.messages import Part, Role, TextPart
from lash_tasks.domain.models import ModelOptions
from lash_tasks.domain.turns import TurnContext
from lash_tasks.machine.requests import ModelMessage, ModelRequest, ModelResponse
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.providers.api_keys import KeySource
from lash_tasks.providers.endpoint import HttpProvider
from lash_tasks.providers.http import HttpClients, Timeouts
from lash_tasks.providers.openai import ChatCompletions
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.providers.urls import checked_base_url
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import ModelEndpoint

KEY = "key-9f8e7d6c5b4a-sentinel"
ONE_ATTEMPT = RetryPolicy(max_attempts=1)
LOOKUP = ToolSpec(
    "lookup",
    "Look something up.",
    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)

TURN = TurnContext(
    session_id=SessionId("s"), turn_id=TurnId("t"), turn_index=0, agent="a", context=None, admitted_at_ms=0
)


@dataclass
class RecordingStream:
    """A ModelStream that keeps what it was told, in order; `on_text` runs at each piece of text."""

    events: list[tuple[str, object]] = field(default_factory=list)
    on_text: Callable[[], object] | None = None

    def text(self, delta: str) -> None:
        self.events.append(("text", delta))
        if self.on_text is not None:
            self.on_text()

    def reasoning(self, delta: str) -> None:
        self.events.append(("reasoning", delta))

    def reset(self) -> None:
        self.events.append(("reset", None))

    def retrying(self, *, attempt: int, max_attempts: int, wait_seconds: float, reason: str) -> None:
        self.events.append(("retrying", (attempt, max_attempts, wait_seconds)))

    def of(self, kind: str) -> list[object]:
        return [value for name, value in self.events if name == kind]


def no_blob(ref: BlobRef) -> bytes:
    raise AssertionError(f"nobody asked for blob {ref}")


def call_of(
    messages: Sequence[ModelMessage] | str = "hello",
    *,
    model: str = "gpt-test",
    system: str = "",
    tools: tuple[ToolSpec, ...] = (),
    load_blob: Callable[[BlobRef], bytes] = no_blob,
    timeout_seconds: float = 300.0,
    options: ModelOptions | None = None,
) -> ModelCall:
    if isinstance(messages, str):
        messages = (said(TextPart(messages)),)
    request = ModelRequest(system, tuple(messages), tools, options)
    return ModelCall(model, request, load_blob, timeout_seconds, "lash-key-1", TURN)


def said(*parts: Part) -> ModelMessage:
    return ModelMessage(Role.USER, parts)


def answered(*parts: Part) -> ModelMessage:
    return ModelMessage(Role.ASSISTANT, parts)


def openai_at(
    base_url: str,
    *,
    clock: Clock | None = None,
    policy: RetryPolicy = ONE_ATTEMPT,
    timeouts: Timeouts | None = None,
    key: str | None = KEY,
    tls: ssl.SSLContext | None = None,
) -> HttpProvider:
    clock = clock or FakeClock()
    url = checked_base_url(base_url, "OPENAI_BASE_URL", "OPENAI_API_KEY")
    secret = SecretStr(key) if key is not None else None
    return HttpProvider(
        "openai",
        ChatCompletions(),
        base_url=url,
        key=KeySource(secret, name="OPENAI_API_KEY", required=url.host == ChatCompletions.vendor_host),
        clients=HttpClients(clock, timeouts or Timeouts(), lambda: tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        clock=clock,
        random=lambda: 0.5,
        policy=policy,
    )


def ask(
    endpoint: ModelEndpoint,
    call: ModelCall | None = None,
    *,
    stream: RecordingStream | None = None,
    interrupt: Interrupt | None = None,
    clock: Clock | None = None,
    policy: RetryPolicy = ONE_ATTEMPT,
    timeouts: Timeouts | None = None,
) -> ModelResponse:
    """One call through a provider of its own."""
    clock = clock or FakeClock()
    provider = openai_at(endpoint.base_url, clock=clock, policy=policy, timeouts=timeouts)
    try:
        return provider.complete(call or call_of(), stream or RecordingStream(), interrupt or TurnInterrupt(clock))
    finally:
        provider.close()


class ThreadedAnswer(threading.Thread):
    """Accepts one connection on `server`, sends `answer` once the client has spoken, and hangs up."""

    def __init__(self, server: socket.socket, answer: bytes) -> None:
        super().__init__()
        self._server = server
        self._answer = answer
        self.start()

    def run(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._answer)


@contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """The address of a listener whose backlog is full: the kernel answers no further SYN."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = listener.getsockname()
        for _ in range(4):
            member = open_sockets.enter_context(socket.socket())
            member.setblocking(False)
            member.connect_ex(address)
        yield address
