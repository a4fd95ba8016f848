"""What the openai provider makes of a server that fails, stalls, hangs up or talks nonsense (T13.6, T14.3, T14.4)."""

from __future__ import annotations

import logging
import socket
import time

import pytest

from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.messages import TextPart
from lash_tasks.errors import ConfigurationError
from lash_tasks.ports import ProviderFailure
from lash_tasks.providers import endpoint as http_provider
from lash_tasks.providers import http, sse
from lash_tasks.providers.http import Timeouts
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import DONE, ModelEndpoint, Reply, Step, delta, error_reply, event, json_reply, text_reply
from tests.providers.parts import KEY, RecordingStream, ThreadedAnswer, ask, call_of, full_listener, openai_at

STOP = delta(finish_reason="stop")
HTML = {"Content-Type": "text/html; charset=utf-8"}
QUICK = Timeouts(connect_seconds=5.0, chunk_seconds=0.2)


class Replies:
    """A script that gives each reply once and then repeats the last."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    def __call__(self, _: JsonObject) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def failure_from(reply: Reply, *, timeouts: Timeouts | None = None) -> ProviderFailure:
    with ModelEndpoint(Replies(reply)) as endpoint, pytest.raises(ProviderFailure) as caught:
        ask(endpoint, timeouts=timeouts)
    return caught.value


def outline(failure: ProviderFailure) -> tuple[str, str, bool]:
    return failure.code, failure.kind, failure.retryable


def test_a_refused_request_is_asked_once() -> None:
    with ModelEndpoint(Replies(error_reply(400, "bad tools", code="invalid_value"))) as endpoint:
        with pytest.raises(ProviderFailure, match="openai request failed with 400: bad tools") as caught:
            ask(endpoint, policy=RetryPolicy())
        assert outline(caught.value) == ("invalid_value", "validation", False)
        assert len(endpoint.requests) == 1


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    clock, told = FakeClock(), RecordingStream()
    replies = Replies(
        error_reply(429, "rate limit", Retry_After="7"),
        error_reply(503, "overloaded", Retry_After="Tue, 14 Nov 2023 22:13:57 GMT"),
        error_reply(529, "overloaded", Retry_After="3600"),
        text_reply("Hello"),
    )
    with ModelEndpoint(replies) as endpoint:
        answer = ask(endpoint, stream=told, clock=clock, policy=RetryPolicy())
        keys = {request.headers["idempotency-key"] for request in endpoint.requests}
        bodies = [request.body for request in endpoint.requests]
    assert answer.parts == (TextPart("Hello"),)
    assert told.of("retrying") == [(1, 4, 7.0), (2, 4, 30.0), (3, 4, 60.0)]
    assert keys == {"lash-key-1"}
    assert bodies == [bodies[0]] * 4


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply((delta(content="Hel"), Step.CUT)), ("connection_lost", "transport", True)),
        (Reply((delta(content="Hel"),)), ("stream_ended_early", "stream", True)),
        (Reply(()), ("stream_ended_early", "stream", True)),
        (Reply((b'data: {"choices": [{"del',)), ("stream_ended_early", "stream", True)),
        (Reply((b'data: {"choices": [{"del', Step.CUT)), ("connection_lost", "transport", True)),
        (Reply((b"data: not json\n\n", DONE)), ("unreadable_response", "stream", True)),
        (Reply((b"data: [1]\n\n", DONE)), ("unreadable_response", "stream", True)),
        (Reply((b"data: " + b"[" * 100_000 + b"\n\n", DONE)), ("unreadable_response", "stream", True)),
        (Reply((b"<html>login</html>",), headers=HTML), ("unreadable_response", "stream", True)),
        (Reply((b"<html>login</html>",), 404, HTML), ("404", "http", False)),
        (Reply((b"<html>down</html>",), 502, HTML), ("502", "http", True)),
        (Reply((b"{oops",), headers={"Content-Type": "application/json"}), ("unreadable_response", "stream", True)),
        (json_reply([]), ("unreadable_response", "stream", True)),
        (json_reply({"hello": "world"}), ("unreadable_response", "stream", True)),
        (
            json_reply({"error": {"message": "no", "code": "model_not_found"}}),
            ("model_not_found", "unsupported", False),
        ),
        (Reply((delta(content="a"), event(error={"message": "x", "code": 502}))), ("502", "http", True)),
        (Reply((delta(content="a"), STOP, event(error={"message": "x", "code": 400}))), ("400", "validation", False)),
        (Reply((event(object="error", message="x", code=500), DONE)), ("500", "http", True)),
        (Reply((), 302, {"Location": "http://127.0.0.1:1/"}), ("302", "http", False)),
        (error_reply(401, "no such key"), ("error", "auth", False)),
        (
            error_reply(400, "too long", code="context_length_exceeded"),
            ("context_length_exceeded", "validation", False),
        ),
        (Reply((b"\x1f\x8bno gzip",), headers={"Content-Encoding": "gzip"}), ("connection_lost", "transport", True)),
    ],
)
def test_a_broken_answer_is_a_failure(reply: Reply, expected: tuple[str, str, bool]) -> None:
    assert outline(failure_from(reply)) == expected


@pytest.mark.parametrize("step", [Step.STALL, Step.CUT])
def test_an_error_whose_body_does_not_end_is_told_by_its_status(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_provider, "ERROR_BODY_SECONDS", 0.1)
    reply = Reply((b'{"error": ', step), 503, {"Content-Type": "application/json"})
    assert outline(failure_from(reply)) == ("503", "http", True)


def test_what_was_whole_when_the_stream_broke_counts() -> None:
    """The finish reason sits in the decoder when the server hangs up: the answer is complete."""
    with ModelEndpoint(Replies(Reply((delta(content="a"), STOP.rstrip(), Step.CUT)))) as endpoint:
        assert ask(endpoint).parts == (TextPart("a"),)


@pytest.mark.parametrize("end", [Step.CUT, Step.STALL])
def test_a_break_after_the_finish_reason_costs_nothing(end: Step) -> None:
    with ModelEndpoint(Replies(Reply((delta(content="a"), STOP, end)))) as endpoint:
        assert ask(endpoint, timeouts=QUICK).parts == (TextPart("a"),)


@pytest.mark.parametrize("reply", [Reply(stall_before_headers=True), Reply((delta(content="a"), Step.STALL))])
def test_a_server_that_stalls_is_a_timeout(reply: Reply) -> None:
    failure = failure_from(reply, timeouts=QUICK)
    assert outline(failure) == ("timeout", "timeout", True)
    assert "sent nothing for 0.2 s" in failure.message


def test_the_whole_call_ends_in_time_however_steadily_the_server_dribbles() -> None:
    def dribble() -> None:
        stopped.wait(0.05)

    clock = SystemClock()
    stopped = TurnInterrupt(clock)
    steps = [step for _ in range(200) for step in (b": ping\n\n", dribble)]
    with ModelEndpoint(Replies(Reply(steps))) as endpoint:
        began = time.monotonic()
        with pytest.raises(ProviderFailure) as caught:
            ask(endpoint, call_of(timeout_seconds=0.4), clock=clock, policy=RetryPolicy())
        assert time.monotonic() - began < 2
        assert len(endpoint.requests) == 1
    assert outline(caught.value) == ("timeout", "timeout", True)
    assert caught.value.message == "the model call used up its time"


def test_a_chunk_timeout_never_outlasts_the_call() -> None:
    with ModelEndpoint(Replies(Reply((delta(content="a"), Step.STALL)))) as endpoint:
        began = time.monotonic()
        with pytest.raises(ProviderFailure, match="used up its time"):
            ask(endpoint, call_of(timeout_seconds=0.3), clock=SystemClock())
        assert time.monotonic() - began < 2


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse.SseDecoder.__init__, "__defaults__", (1000,))
    failure = failure_from(Reply([b"data: " + b"x" * 500] * 3))
    assert outline(failure) == ("response_too_large", "stream", False)


def test_a_body_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)
    failure = failure_from(Reply([b"x" * 500] * 3, headers={"Content-Type": "application/json"}))
    assert outline(failure) == ("response_too_large", "stream", False)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    provider = openai_at(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ProviderFailure, match=r"cannot connect to 127\.0\.0\.1") as caught:
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
    assert outline(caught.value) == ("connection_failed", "transport", True)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelEndpoint(Replies(text_reply("a"))) as endpoint, full_listener() as silent:
        port = int(endpoint.base_url.split(":")[2].removesuffix("/v1"))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (silent, ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        assert ask(endpoint, timeouts=Timeouts(connect_seconds=1.0)).parts == (TextPart("a"),)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid"])
def test_nobody_of_that_name(host: str) -> None:
    provider = openai_at(f"http://{host}/v1")
    with pytest.raises(ProviderFailure) as caught:
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
    assert outline(caught.value) == ("connection_failed", "transport", True)


def test_a_server_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        provider = openai_at(f"http://127.0.0.1:{server.getsockname()[1]}/v1")
        client = ThreadedAnswer(server, b"SSH-2.0-OpenSSH " + KEY.encode() + b"\r\n")
        with pytest.raises(ProviderFailure) as caught:
            provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
        client.join()
    assert outline(caught.value) == ("connection_lost", "transport", True)
    assert KEY not in caught.value.message


@pytest.mark.parametrize("key", ["two\nlines-secret", "schlüssel-secret", "tab\there-secret"])
def test_a_key_that_fits_no_header_is_refused_without_showing_it(key: str) -> None:
    provider = openai_at("http://127.0.0.1:9/v1", key=key)
    with pytest.raises(ProviderFailure) as caught:
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
    assert outline(caught.value) == ("invalid_api_key", "auth", False)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "url", ["", "api.openai.com/v1", "ftp://host/v1", "http://", "http://h:port/v1", "http://u:p@host/v1"]
)
def test_a_base_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_BASE_URL"):
        openai_at(url)


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(401, f"Incorrect API key provided: {KEY}"),
        Reply((f"<html>{KEY}</html>".encode(),), 502, HTML),
        Reply((f"data: {KEY}\n\n".encode(),)),
        Reply((event(error={"message": KEY, "code": KEY}),)),
        json_reply({KEY: KEY}),
    ],
)
def test_the_key_is_in_no_failure_and_no_log(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ModelEndpoint(Replies(reply)) as endpoint:
        provider = openai_at(endpoint.base_url, policy=RetryPolicy())
        with pytest.raises(ProviderFailure) as caught:
            provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
        assert endpoint.requests[0].headers["authorization"] == f"Bearer {KEY}"
        provider.close()
    failure = caught.value
    shown = [str(failure), repr(failure), repr(vars(failure)), repr(vars(provider)), caplog.text]
    shown += [repr(vars(record)) for record in caplog.records]
    assert all(KEY not in text for text in shown)
