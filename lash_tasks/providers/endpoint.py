"""`HttpProvider`: a model server over HTTP, whatever dialect it speaks. It is always asked to stream (effects §14)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import quote

import httpx

from lash_tasks.clock import Clock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, ProviderFailure
from lash_tasks.providers.api_keys import KeySource
from lash_tasks.providers.failures import (
    Redactor,
    error_object_failure,
    parse_json,
    retry_after_seconds,
    status_failure,
)
from lash_tasks.providers.http import Answer, HttpClients, too_large
from lash_tasks.providers.retrying import RetryPolicy, with_retries
from lash_tasks.providers.sse import EventTooLarge, SseDecoder
from lash_tasks.providers.urls import beneath

DONE = "[DONE]"
ERROR_BODY_BYTES = 256 * 1024
ERROR_BODY_SECONDS = 5.0
TAIL_SECONDS = 0.5
"""How long the end of the body may take after the end of the stream, for a connection that can be used again."""


class Completion(Protocol):
    """An answer under construction. What the server sends in the wrong shape counts as not sent."""

    @property
    def finished(self) -> bool:
        """Whether the server said why the answer ends: what follows may be lost."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing of interest follows."""
        ...

    def add(self, chunk: JsonObject) -> None:
        """Take one streamed chunk or one buffered answer."""
        ...

    def response(self) -> ModelResponse: ...


class Dialect(Protocol):
    """What one vendor's servers want to read and write."""

    @property
    def vendor_host(self) -> str:
        """The vendor's own server, which needs a key."""
        ...

    @property
    def path(self) -> str: ...

    @property
    def buffered_field(self) -> str:
        """The field that every answer has which the server did not stream."""
        ...

    def headers(self, key: str) -> Mapping[str, str]:
        """The headers beside the common ones; `key` is empty if there is none."""
        ...

    def body(self, call: ModelCall, host: str) -> bytes:
        """The request as ASCII JSON, the same for the same call. ProviderFailure for what cannot be sent."""
        ...

    def completion(self, stream: ModelStream, host: str) -> Completion: ...


class HttpProvider:
    """A Provider, called `name` in its failures.

    `call.model` names the model on the server; `random` (0 to 1) spreads the waits between retries.
    """

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        *,
        base_url: httpx.URL,
        key: KeySource,
        clients: HttpClients,
        clock: Clock,
        random: Callable[[], float],
        policy: RetryPolicy,
    ) -> None:
        self._dialect = dialect
        self._prefix = f"{name} request failed"
        self._url = beneath(base_url, dialect.path)
        self._key = key
        self._clients = clients
        self._clock = clock
        self._random = random
        self._policy = policy

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        deadline = self._clock.monotonic() + call.timeout_seconds
        key = self._key.find(call.turn)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Idempotency-Key": quote(call.idempotency_key, safe=":/#-_.~"),
            **self._dialect.headers(key),
        }
        redact = Redactor((key,))
        body = self._dialect.body(call, self._url.host)

        def attempt(shown: ModelStream, until: float) -> ModelResponse:
            with self._clients.post(self._url, headers, body, deadline=until, interrupt=interrupt) as answer:
                return self._read(answer, shown, redact)

        return with_retries(
            attempt,
            policy=self._policy,
            clock=self._clock,
            random=self._random,
            deadline=deadline,
            stream=stream,
            interrupt=interrupt,
            gate=call.gate,
        )

    def close(self) -> None:
        self._clients.close()

    def _read(self, answer: Answer, shown: ModelStream, redact: Redactor) -> ModelResponse:
        if not 200 <= answer.status < 300:
            wait = retry_after_seconds(answer.headers.get("retry-after"), self._clock.now_ms())
            raise status_failure(self._prefix, answer.status, _error_body(answer), redact, wait)
        reading = _Reading(self._prefix, redact)
        content_type = answer.headers.get("content-type", "").lower()
        if "html" in content_type:
            raise reading.unreadable("the server sent a web page", _error_body(answer))
        completion = self._dialect.completion(shown, self._url.host)
        if "json" in content_type:
            body = answer.body()
            chunk = reading.chunk(body)
            if self._dialect.buffered_field not in chunk:
                raise reading.unreadable("the server sent no completion", body)
            completion.add(chunk)
        else:
            reading.stream(answer, completion)
        return completion.response()


class _Reading:
    """Reading one answer; its failures begin with `prefix` and hold no secret."""

    def __init__(self, prefix: str, redact: Redactor) -> None:
        self._prefix = prefix
        self._redact = redact

    def stream(self, answer: Answer, completion: Completion) -> None:
        """Feed the stream into `completion`; a break after the server has said that it is whole does not matter."""
        done = False
        try:
            for data in _events(answer):
                if done:
                    continue
                if data == DONE:
                    done = True
                else:
                    completion.add(self.chunk(data))
                    done = completion.done
                if done:
                    answer.hurry(TAIL_SECONDS)
        except ProviderFailure as failure:
            if failure.kind not in ("transport", "timeout") or not (done or completion.finished):
                raise
        if not (done or completion.finished):
            message = f"{self._prefix}: the stream ended before the answer did"
            raise ProviderFailure(message, code="stream_ended_early", kind="stream", retryable=True)

    def chunk(self, data: str | bytes) -> JsonObject:
        """One JSON object of an answer; ProviderFailure if it is an error, or no JSON object at all."""
        try:
            chunk = parse_json(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise self.unreadable("the server sent something that is not JSON", data)
        error = chunk if chunk.get("object") == "error" else chunk.get("error")
        if error:
            raise error_object_failure(self._prefix, error, self._redact)
        return chunk

    def unreadable(self, problem: str, data: str | bytes) -> ProviderFailure:
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        return ProviderFailure(
            f"{self._prefix}: {problem}",
            code="unreadable_response",
            kind="stream",
            retryable=True,
            raw=self._redact.raw(text),
        )


def _events(answer: Answer) -> Iterator[str]:
    """The data of each event. One that was whole when the stream broke comes before the failure."""
    decoder = SseDecoder()
    try:
        for piece in answer.chunks():
            yield from decoder.feed(piece)
    except EventTooLarge:
        raise too_large() from None
    except ProviderFailure:
        yield from filter(_is_whole, decoder.flush())
        raise
    yield from filter(_is_whole, decoder.flush())


def _is_whole(data: str) -> bool:
    try:
        return data == DONE or bool(parse_json(data))
    except ValueError:
        return False


def _error_body(answer: Answer) -> bytes:
    """What of an error's body arrives in good time; the status alone says enough."""
    answer.hurry(ERROR_BODY_SECONDS)
    body = bytearray()
    with suppress(ProviderFailure):
        for piece in answer.chunks():
            body += piece
            if len(body) > ERROR_BODY_BYTES:
                break
    return bytes(body)
