"""Both providers make the same of what their servers say (effects §14.7, T14.5), and fail in the same way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from lash_tasks import ModelOptions
from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import BlobRef, CallId
from lash_tasks.domain.messages import ImagePart, ReasoningPart, TextPart, ToolCallPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelResponse, TerminalReason
from lash_tasks.ports import Interrupted, InterruptReason, ProviderFailure
from lash_tasks.providers.http import Timeouts
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import ModelEndpoint, Reply, Step, json_reply
from tests.providers.parts import KEY, LOOKUP, RecordingStream, call_of, said
from tests.providers.wires import WIRES, Asking, Wire, whole
from tests.services import wait_until

QUICK = Timeouts(connect_seconds=5.0, chunk_seconds=0.2)
USAGE = TokenUsage(10, 5)
LOOKUP_CALL = ToolCallPart(CallId("call_a"), "lookup", '{"text": "x"}')
CHARGE_CALL = ToolCallPart(CallId("call_b"), "charge", '{"cents": 5}')


@pytest.fixture(params=WIRES, ids=lambda wire: str(wire.name))
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    """A server; the test puts its script in place."""
    with ModelEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def ask(wire: Wire, endpoint: ModelEndpoint) -> Asking:
    return Asking(wire, endpoint)


def replies(endpoint: ModelEndpoint, *given: Reply) -> None:
    """Give each reply once, and then repeat the last."""
    left = list(given)

    def script(_: JsonObject) -> Reply:
        return left.pop(0) if len(left) > 1 else left[0]

    endpoint.script = script


def outline(failure: ProviderFailure) -> tuple[str, str, bool]:
    return failure.code, failure.kind, failure.retryable


# ---------------------------------------------------------------- answers


def test_plain_text(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    told = RecordingStream()
    replies(endpoint, whole(wire, wire.text("Hel", "lo\ud83d", "\ude00")))
    assert ask(stream=told) == ModelResponse((TextPart("Hello😀"),), USAGE, TerminalReason.STOP)
    assert told.events == [("text", "Hel"), ("text", "lo"), ("text", "😀")]


@pytest.mark.parametrize("finish", ["stop", "output_limit", "content_filter"])
def test_why_an_answer_ends(wire: Wire, endpoint: ModelEndpoint, ask: Asking, finish: str) -> None:
    replies(endpoint, whole(wire, wire.text("Hel"), finish=finish))
    assert ask() == ModelResponse((TextPart("Hel"),), USAGE, TerminalReason(finish))


def test_calls_whose_arguments_are_streamed(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    calls = (
        wire.call(0, "call_a", "lookup", '{"te', 'xt": "x"}'),
        wire.call(1, "call_b", "charge", "", '{"cents": 5}'),
        wire.call(2, "call_c", "now"),
    )
    replies(endpoint, whole(wire, *calls, finish="tool_use"))
    parts = (LOOKUP_CALL, CHARGE_CALL, ToolCallPart(CallId("call_c"), "now", "{}"))
    assert ask() == ModelResponse(parts, USAGE, TerminalReason.TOOL_USE)


def test_a_call_without_id_gets_one_and_a_call_without_name_counts_for_nothing(
    wire: Wire, endpoint: ModelEndpoint, ask: Asking
) -> None:
    replies(endpoint, whole(wire, wire.call(0, "", "lookup"), wire.call(1, "call_b", "", "{}"), finish="tool_use"))
    [call] = ask().parts
    assert isinstance(call, ToolCallPart)
    assert (call.call_id.startswith("call_"), call.tool) == (True, "lookup")


def test_reasoning_stands_apart_from_the_answer(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    told = RecordingStream()
    replies(endpoint, whole(wire, wire.reasoning("thinking"), wire.text("a")))
    assert ask(stream=told).parts == (ReasoningPart("thinking"), TextPart("a"))
    assert told.events == [("reasoning", "thinking"), ("text", "a")]


def test_input_tokens_hold_those_that_were_cached(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, Reply((*wire.begins(fresh=20, cached=80), *wire.text("a"), *wire.ends("stop", output=2))))
    assert ask().usage == TokenUsage(100, 2, cached_input_tokens=80)


def test_an_answer_that_the_server_did_not_stream(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    told = RecordingStream()
    replies(endpoint, json_reply(wire.buffered("Hello")))
    assert ask(stream=told) == ModelResponse((TextPart("Hello"),), USAGE, TerminalReason.STOP)
    assert told.events == [("text", "Hello")]


def test_a_body_that_goes_on_after_its_end_holds_nobody_up(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    answer = whole(wire, wire.text("a"))
    replies(endpoint, Reply((*answer.steps, Step.STALL)))
    assert ask().parts == (TextPart("a"),)


def test_one_connection_serves_the_calls_of_a_thread(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, whole(wire, wire.text("a")))
    provider = ask.provider()
    for _ in range(3):
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
    provider.close()
    assert (len(endpoint.requests), endpoint.accepted) == (3, 1)


# ---------------------------------------------------------------- failures


def test_a_busy_server_is_asked_again_when_it_says(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    told = RecordingStream()
    replies(
        endpoint,
        wire.error(429, "rate_limit_error", "rate limit", Retry_After="7"),
        wire.error(529, "overloaded_error", "Overloaded"),
        wire.error(503, "api_error", "down", Retry_After="3600"),
        whole(wire, wire.text("Hello")),
    )
    assert ask(stream=told, policy=RetryPolicy()).parts == (TextPart("Hello"),)
    assert told.of("retrying") == [(1, 4, 7.0), (2, 4, 4.0), (3, 4, 60.0)]
    assert {request.headers["idempotency-key"] for request in endpoint.requests} == {"lash-key-1"}
    assert [request.body for request in endpoint.requests] == [endpoint.requests[0].body] * 4


def test_an_overloaded_server_that_says_so_in_mid_answer_is_asked_again(
    wire: Wire, endpoint: ModelEndpoint, ask: Asking
) -> None:
    told = RecordingStream()
    cut = Reply((*wire.begins(), *wire.text("Hel"), wire.error_event("overloaded_error", "Overloaded")))
    replies(endpoint, cut, whole(wire, wire.text("Hello")))
    assert ask(stream=told, policy=RetryPolicy()).parts == (TextPart("Hello"),)
    assert told.events == [("text", "Hel"), ("retrying", (1, 4, 2.0)), ("reset", None), ("text", "Hello")]


def test_a_stream_that_breaks_is_reset_and_asked_again(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    told = RecordingStream()
    replies(endpoint, Reply((*wire.begins(), *wire.text("Hel"), Step.CUT)), whole(wire, wire.text("Hello")))
    assert ask(stream=told, policy=RetryPolicy()).parts == (TextPart("Hello"),)
    assert told.events == [("text", "Hel"), ("retrying", (1, 4, 2.0)), ("reset", None), ("text", "Hello")]


def test_a_break_after_the_end_is_known_costs_nothing(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, Reply((*wire.begins(), *wire.text("a"), wire.ends("stop")[0], Step.CUT)))
    assert ask().parts == (TextPart("a"),)


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (400, "invalid_request_error", "tools: bad", ("invalid_request_error", "validation", False)),
        (401, "authentication_error", "invalid x-api-key", ("authentication_error", "auth", False)),
        (402, "billing_error", "pay first", ("billing_error", "quota", False)),
        (400, "invalid_request_error", "Your credit balance is too low", ("invalid_request_error", "quota", False)),
        (404, "not_found_error", "model: claude-9", ("not_found_error", "unsupported", False)),
        (413, "request_too_large", "too large", ("request_too_large", "validation", False)),
        (500, "api_error", "Internal server error", ("api_error", "http", True)),
        (529, "overloaded_error", "Overloaded", ("overloaded_error", "http", True)),
    ],
)
def test_what_a_refusal_means(
    wire: Wire, endpoint: ModelEndpoint, ask: Asking, status: int, kind: str, message: str, expected: object
) -> None:
    replies(endpoint, wire.error(status, kind, message))
    with pytest.raises(ProviderFailure, match=f"{wire.name} request failed with {status}") as caught:
        ask()
    assert outline(caught.value) == expected


def test_a_history_that_is_too_long_is_told_apart(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    message = "prompt is too long: 213462 tokens > 200000 maximum"
    replies(endpoint, wire.error(400, "invalid_request_error", message))
    with pytest.raises(ProviderFailure) as caught:
        ask()
    assert caught.value.terminal_reason == TerminalReason.CONTEXT_OVERFLOW


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), ("stream_ended_early", "stream", True)),
        ((b"data: not json\n\n",), ("unreadable_response", "stream", True)),
        ((b"data: [1]\n\n",), ("unreadable_response", "stream", True)),
        ((Step.CUT,), ("connection_lost", "transport", True)),
        ((Step.STALL,), ("timeout", "timeout", True)),
    ],
)
def test_a_broken_stream_is_a_failure(
    wire: Wire, endpoint: ModelEndpoint, ask: Asking, steps: tuple[bytes | Step, ...], expected: object
) -> None:
    replies(endpoint, Reply((*wire.begins(), *wire.text("a"), *steps)))
    with pytest.raises(ProviderFailure) as caught:
        ask(timeouts=QUICK)
    assert outline(caught.value) == expected


def test_a_cancel_hangs_up(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    interrupt = TurnInterrupt(SystemClock())
    told = RecordingStream(on_text=lambda: interrupt.set(InterruptReason.CANCELLED))
    replies(endpoint, Reply((*wire.begins(), *wire.text("a"), Step.STALL)))
    with pytest.raises(Interrupted):
        ask(stream=told, interrupt=interrupt, clock=SystemClock(), policy=RetryPolicy())
    wait_until(lambda: endpoint.requests[0].gone_at, 5, "the server to see the client go")


def test_a_time_limit_bounds_the_call_with_its_retries(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, Reply(stall_before_headers=True))
    began = time.monotonic()
    with pytest.raises(ProviderFailure, match="used up its time"):
        ask(call_of(timeout_seconds=0.3), clock=SystemClock(), policy=RetryPolicy())
    assert (time.monotonic() - began < 2, len(endpoint.requests)) == (True, 1)


# ---------------------------------------------------------------- requests


def test_the_key_is_in_its_header_and_in_no_failure(
    wire: Wire, endpoint: ModelEndpoint, ask: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    replies(endpoint, wire.error(401, "authentication_error", f"no {KEY}"))
    with pytest.raises(ProviderFailure) as caught:
        ask()
    assert endpoint.requests[0].headers[wire.key_header].removeprefix("Bearer ") == KEY
    assert KEY not in repr(vars(caught.value)) + caplog.text


def test_a_server_of_ones_own_needs_no_key_and_the_vendors_does(
    wire: Wire, endpoint: ModelEndpoint, ask: Asking
) -> None:
    replies(endpoint, whole(wire, wire.text("a")))
    ask(key=None)
    assert wire.key_header not in endpoint.requests[0].headers
    provider = ask.provider(key=None, base_url=f"https://{wire.dialect().vendor_host}")
    with pytest.raises(ProviderFailure, match="Set API_KEY"):
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))


def test_options_become_fields_of_the_request(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, whole(wire, wire.text("a")))
    options = ModelOptions(
        temperature=0.2, max_output_tokens=77, timeout=timedelta(seconds=5), extra={"seed": 7, "top_p": 0.9}
    )
    ask(call_of(options=options))
    body = endpoint.requests[0].body
    assert (body["temperature"], body["max_tokens"], body["seed"], body["top_p"]) == (0.2, 77, 7, 0.9)
    assert "timeout" not in body
    assert "extra" not in body


def test_no_options_leave_no_trace(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, whole(wire, wire.text("a")))
    ask(call_of(options=ModelOptions()))
    ask(call_of())
    first, second = (request.body for request in endpoint.requests)
    assert first == second
    assert not {"temperature", "reasoning_effort", "thinking", "output_config"} & first.keys()


def test_an_image_that_models_do_not_take_is_refused_before_anything_is_sent(
    endpoint: ModelEndpoint, ask: Asking
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        ask(call_of((said(ImagePart(BlobRef("b"), "image/bmp", "shot")),)))
    assert (caught.value.code, endpoint.requests) == ("unsupported_image_format", [])


def test_many_threads_share_one_provider(wire: Wire, endpoint: ModelEndpoint, ask: Asking) -> None:
    replies(endpoint, whole(wire, wire.text("a")))
    provider, answers = ask.provider(), list[ModelResponse]()

    def once() -> None:
        answers.append(provider.complete(call_of(tools=(LOOKUP,)), RecordingStream(), TurnInterrupt(FakeClock())))

    threads = [threading.Thread(target=once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.close()
    assert answers == [ModelResponse((TextPart("a"),), USAGE, TerminalReason.STOP)] * 8
