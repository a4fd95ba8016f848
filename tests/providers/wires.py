"""One vocabulary for what both model servers say, so that one suite holds both providers to the same."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from lash_tasks.clock import Clock, FakeClock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.providers.anthropic import Messages
from lash_tasks.providers.api_keys import KeySource
from lash_tasks.providers.endpoint import Dialect, HttpProvider
from lash_tasks.providers.http import HttpClients, Timeouts
from lash_tasks.providers.openai import ChatCompletions
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.providers.urls import checked_base_url
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests import endpoint as chat
from tests import messages_endpoint as messages
from tests.endpoint import ModelEndpoint, Reply
from tests.providers.parts import KEY, ONE_ATTEMPT, RecordingStream, call_of


class Wire(Protocol):
    """What a server of one dialect sends. Pieces are chunks; `ends` is what makes an answer whole."""

    name: str
    key_header: str
    finishes: Mapping[str, str]
    """The server's word for each way in which an answer ends."""

    def dialect(self) -> Dialect: ...
    def base_url(self, endpoint: ModelEndpoint) -> str: ...
    def text(self, *pieces: str) -> list[bytes]: ...
    def reasoning(self, text: str) -> list[bytes]: ...
    def call(self, index: int, call_id: str, tool: str, *pieces: str) -> list[bytes]: ...
    def ends(self, finish: str, *, output: int = 5) -> list[bytes]: ...
    def begins(self, *, fresh: int = 10, cached: int = 0) -> list[bytes]: ...
    def buffered(self, text: str) -> JsonObject: ...
    def error_event(self, kind: str, message: str) -> bytes: ...
    def error(self, status: int, kind: str, message: str, **headers: str) -> Reply: ...


class ChatWire:
    name = "openai"
    key_header = "authorization"
    finishes: Mapping[str, str] = {
        "stop": "stop",
        "tool_use": "tool_calls",
        "output_limit": "length",
        "content_filter": "content_filter",
    }

    def dialect(self) -> Dialect:
        return ChatCompletions()

    def base_url(self, endpoint: ModelEndpoint) -> str:
        return endpoint.base_url

    def text(self, *pieces: str) -> list[bytes]:
        return [chat.delta(content=piece) for piece in pieces]

    def reasoning(self, text: str) -> list[bytes]:
        return [chat.delta(reasoning_content=text)]

    def call(self, index: int, call_id: str, tool: str, *pieces: str) -> list[bytes]:
        first = {"index": index, "id": call_id, "function": {"name": tool, "arguments": ""}}
        rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        return [chat.delta(tool_calls=[one]) for one in (first, *rest)]

    def begins(self, *, fresh: int = 10, cached: int = 0) -> list[bytes]:
        return [chat.usage(fresh + cached, 0, cached=cached)]

    def ends(self, finish: str, *, output: int = 5) -> list[bytes]:
        return [chat.delta(finish_reason=self.finishes[finish]), chat.usage(0, output), chat.DONE]

    def buffered(self, text: str) -> JsonObject:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}

    def error_event(self, kind: str, message: str) -> bytes:
        return chat.event(error={"type": kind, "message": message})

    def error(self, status: int, kind: str, message: str, **headers: str) -> Reply:
        return chat.error_reply(status, message, code=kind, **headers)


class MessagesWire:
    name = "anthropic"
    key_header = "x-api-key"
    finishes: Mapping[str, str] = {
        "stop": "end_turn",
        "tool_use": "tool_use",
        "output_limit": "max_tokens",
        "content_filter": "refusal",
    }

    def dialect(self) -> Dialect:
        return Messages()

    def base_url(self, endpoint: ModelEndpoint) -> str:
        return messages.base_url(endpoint)

    def text(self, *pieces: str) -> list[bytes]:
        return messages.text_block(1, *pieces)

    def reasoning(self, text: str) -> list[bytes]:
        return messages.block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": text})

    def call(self, index: int, call_id: str, tool: str, *pieces: str) -> list[bytes]:
        return messages.tool_block(index + 1, tool, *pieces, call_id=call_id)

    def begins(self, *, fresh: int = 10, cached: int = 0) -> list[bytes]:
        return [messages.start(input_tokens=fresh, cache_read_input_tokens=cached), messages.PING]

    def ends(self, finish: str, *, output: int = 5) -> list[bytes]:
        return [messages.delta(self.finishes[finish], output_tokens=output), messages.STOP]

    def buffered(self, text: str) -> JsonObject:
        usage = {"input_tokens": 10, "output_tokens": 5}
        content = [{"type": "text", "text": text}]
        return {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}

    def error_event(self, kind: str, message: str) -> bytes:
        return messages.event("error", error={"type": kind, "message": message})

    def error(self, status: int, kind: str, message: str, **headers: str) -> Reply:
        return messages.error_reply(status, kind, message, **headers)


WIRES: list[Wire] = [ChatWire(), MessagesWire()]


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks an endpoint that speaks `wire`, through a provider of its own for each call."""

    wire: Wire
    endpoint: ModelEndpoint

    def provider(
        self,
        *,
        clock: Clock | None = None,
        policy: RetryPolicy = ONE_ATTEMPT,
        timeouts: Timeouts | None = None,
        key: str | None = KEY,
        base_url: str | None = None,
    ) -> HttpProvider:
        clock = clock or FakeClock()
        dialect = self.wire.dialect()
        url = checked_base_url(base_url or self.wire.base_url(self.endpoint), "BASE_URL", "API_KEY")
        secret = SecretStr(key) if key is not None else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return HttpProvider(
            self.wire.name,
            dialect,
            base_url=url,
            key=KeySource(secret, name="API_KEY", required=url.host == dialect.vendor_host),
            clients=HttpClients(clock, timeouts or Timeouts(), lambda: context),
            clock=clock,
            random=lambda: 0.5,
            policy=policy,
        )

    def __call__(
        self,
        call: ModelCall | None = None,
        *,
        stream: RecordingStream | None = None,
        interrupt: Interrupt | None = None,
        clock: Clock | None = None,
        policy: RetryPolicy = ONE_ATTEMPT,
        timeouts: Timeouts | None = None,
        key: str | None = KEY,
    ) -> ModelResponse:
        clock = clock or FakeClock()
        provider = self.provider(clock=clock, policy=policy, timeouts=timeouts, key=key)
        try:
            return provider.complete(call or call_of(), stream or RecordingStream(), interrupt or TurnInterrupt(clock))
        finally:
            provider.close()


def whole(wire: Wire, *parts: list[bytes], finish: str = "stop") -> Reply:
    """An answer with all that belongs to it."""
    steps = [step for part in parts for step in part]
    return Reply((*wire.begins(), *steps, *wire.ends(finish)))
