"""The `openai` provider: any endpoint that speaks Chat Completions, always asked to stream (effects §14.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from lash_tasks.clock import Clock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.errors import ConfigurationError
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, ProviderFailure
from lash_tasks.providers.chat_request import request_body
from lash_tasks.providers.chat_response import Completion
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

PREFIX = "openai request failed"
DONE = "[DONE]"
ERROR_BODY_BYTES = 256 * 1024
ERROR_BODY_SECONDS = 5.0
TAIL_SECONDS = 0.5
"""How long the end of the body may take after the end of the stream, for a connection that can be used again."""


class OpenAI:
    """A Provider. `call.model` names the model on the server; `random` (0 to 1) spreads the waits between retries."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: SecretStr | None,
        clients: HttpClients,
        clock: Clock,
        random: Callable[[], float],
        policy: RetryPolicy,
    ) -> None:
        self._url = _completions_url(base_url)
        self._api_key = api_key
        self._clients = clients
        self._clock = clock
        self._random = random
        self._policy = policy

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        deadline = self._clock.monotonic() + call.timeout_seconds
        key = self._key()
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Idempotency-Key": quote(call.idempotency_key, safe=":/#-_.~"),
        }
        if key:
            headers["Authorization"] = f"Bearer {key}"
        redact = Redactor((key,))
        body = request_body(call)

        def attempt(shown: ModelStream) -> ModelResponse:
            with self._clients.post(self._url, headers, body, deadline=deadline, interrupt=interrupt) as answer:
                return self._read(answer, shown, redact)

        return with_retries(
            attempt,
            policy=self._policy,
            clock=self._clock,
            random=self._random,
            deadline=deadline,
            stream=stream,
            interrupt=interrupt,
        )

    def close(self) -> None:
        self._clients.close()

    def _key(self) -> str:
        """The key, or nothing where a server of one's own needs none."""
        key = self._api_key.get_secret_value().strip() if self._api_key else ""
        if not key and self._url.host == "api.openai.com":
            raise ProviderFailure("Set OPENAI_API_KEY", code="missing_api_key", kind="auth")
        if not (key.isascii() and key.isprintable()):
            raise ProviderFailure(
                "OPENAI_API_KEY holds characters that no HTTP header can carry; set it again",
                code="invalid_api_key",
                kind="auth",
            )
        return key

    def _read(self, answer: Answer, shown: ModelStream, redact: Redactor) -> ModelResponse:
        if not 200 <= answer.status < 300:
            wait = retry_after_seconds(answer.headers.get("retry-after"), self._clock.now_ms())
            raise status_failure(PREFIX, answer.status, _error_body(answer), redact, wait)
        content_type = answer.headers.get("content-type", "").lower()
        if "html" in content_type:
            raise _unreadable("the server sent a web page", _error_body(answer), redact)
        completion = Completion(shown)
        if "json" in content_type:
            body = answer.body()
            chunk = _chunk(body, redact)
            if "choices" not in chunk:
                raise _unreadable("the server sent no completion", body, redact)
            completion.add(chunk)
        else:
            _read_stream(answer, completion, redact)
        return completion.response()


def _completions_url(base_url: str) -> httpx.URL:
    """Where to post. ConfigurationError names the variable; a query string stays."""
    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("OPENAI_BASE_URL: must begin with http:// or https:// and name a host")
    if url.userinfo:
        raise ConfigurationError("OPENAI_BASE_URL: must hold no user name or password; use OPENAI_API_KEY")
    return url.copy_with(path=url.path.rstrip("/") + "/chat/completions")


def _read_stream(answer: Answer, completion: Completion, redact: Redactor) -> None:
    """Feed the stream into `completion`; a break after the server has said that it is whole does not matter."""
    done = False
    try:
        for data in _events(answer):
            if data == DONE:
                done = True
                answer.hurry(TAIL_SECONDS)
            elif not done:
                completion.add(_chunk(data, redact))
    except ProviderFailure as failure:
        if failure.kind not in ("transport", "timeout") or not (done or completion.finished):
            raise
    if not (done or completion.finished):
        message = f"{PREFIX}: the stream ended before the answer did"
        raise ProviderFailure(message, code="stream_ended_early", kind="stream", retryable=True)


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


def _chunk(data: str | bytes, redact: Redactor) -> JsonObject:
    """One JSON object of an answer; ProviderFailure if it is an error, or no JSON object at all."""
    try:
        chunk = parse_json(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise _unreadable("the server sent something that is not JSON", data, redact)
    error = chunk if chunk.get("object") == "error" else chunk.get("error")
    if error:
        raise error_object_failure(PREFIX, error, redact)
    return chunk


def _unreadable(problem: str, data: str | bytes, redact: Redactor) -> ProviderFailure:
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return ProviderFailure(
        f"{PREFIX}: {problem}", code="unreadable_response", kind="stream", retryable=True, raw=redact.raw(text)
    )


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
