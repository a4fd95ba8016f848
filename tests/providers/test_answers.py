"""What the openai provider makes of an answer: the conformance scenarios of effects §14.7, then the oddities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelResponse, ResponsePart, TerminalReason
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import DONE, ModelEndpoint, Reply, delta, event, json_reply, text_reply, tool_reply, usage
from tests.providers.parts import LOOKUP, RecordingStream, ask, call_of, openai_at

STOP = delta(finish_reason="stop")


def response(*parts: ResponsePart, reason: TerminalReason = TerminalReason.STOP) -> ModelResponse:
    return ModelResponse(parts, terminal_reason=reason)


def tool_delta(index: object = 0, *, call_id: object = None, name: object = None, arguments: object = None) -> bytes:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    call = {"index": index, "id": call_id, "function": function}
    return delta(tool_calls=[{key: value for key, value in call.items() if value is not None}])


@dataclass(frozen=True)
class Scenario:
    name: str
    reply: Reply
    expected: ModelResponse


def stream(*steps: bytes) -> Reply:
    return Reply((*steps, DONE))


LOOKUP_CALL = ToolCallPart(CallId("call_a"), "lookup", '{"text": "x"}')

SCENARIOS = [
    Scenario(
        "plain text",
        stream(delta(content="Hello"), STOP, usage(3, 2)),
        replace(response(TextPart("Hello")), usage=TokenUsage(3, 2)),
    ),
    Scenario(
        "output limit",
        stream(delta(content="Hel"), delta(finish_reason="length")),
        response(TextPart("Hel"), reason=TerminalReason.OUTPUT_LIMIT),
    ),
    Scenario(
        "tool use",
        stream(
            tool_delta(call_id="call_a", name="lookup", arguments='{"text": "x"}'), delta(finish_reason="tool_calls")
        ),
        response(LOOKUP_CALL, reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "streamed text assembly",
        stream(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), STOP),
        response(TextPart("Hello")),
    ),
    Scenario(
        "streamed tool-argument merge",
        stream(
            tool_delta(0, call_id="call_a", name="lookup", arguments=""),
            tool_delta(1, call_id="call_b", name="charge"),
            tool_delta(0, arguments='{"te'),
            tool_delta(1, arguments='{"cents": 5}'),
            tool_delta(0, arguments='xt": "x"}'),
            delta(finish_reason="tool_calls"),
        ),
        response(
            LOOKUP_CALL,
            ToolCallPart(CallId("call_b"), "charge", '{"cents": 5}'),
            reason=TerminalReason.TOOL_USE,
        ),
    ),
    Scenario(
        "content filter",
        stream(delta(finish_reason="content_filter")),
        response(reason=TerminalReason.CONTENT_FILTER),
    ),
    Scenario(
        "cache-hit usage",
        stream(delta(content="a"), STOP, usage(100, 2, cached=80)),
        replace(response(TextPart("a")), usage=TokenUsage(100, 2, cached_input_tokens=80)),
    ),
    Scenario(
        "reasoning usage",
        stream(delta(content="a"), STOP, usage(10, 50, reasoning=40)),
        replace(response(TextPart("a")), usage=TokenUsage(10, 50, reasoning_tokens=40)),
    ),
    Scenario(
        "a count that no column holds",
        stream(delta(content="a"), STOP, usage(10**19, 2)),
        replace(response(TextPart("a")), usage=TokenUsage(0, 2)),
    ),
    Scenario(
        "reasoning extraction",
        stream(delta(reasoning_content="think"), delta(reasoning="ing"), delta(content="a"), STOP),
        response(ReasoningPart("thinking"), TextPart("a")),
    ),
    Scenario(
        "split usage across events",
        stream(
            event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 0}),
            delta(content="a"),
            event(choices=[], usage={"prompt_tokens": 0, "completion_tokens": 3}),
            STOP,
            event(choices=[], usage={"completion_tokens": 4, "prompt_tokens_details": None}),
        ),
        replace(response(TextPart("a")), usage=TokenUsage(7, 4)),
    ),
    Scenario(
        "a buffered completion",
        json_reply(
            {
                "choices": [
                    {
                        "message": {
                            "role": "assistant",
                            "content": "Hi",
                            "reasoning_text": "hm",
                            "tool_calls": [
                                {"id": "call_a", "function": {"name": "lookup", "arguments": '{"text": "x"}'}},
                                {"id": "call_b", "function": {"name": "charge", "arguments": ""}},
                            ],
                        },
                        "finish_reason": "tool_calls",
                    }
                ],
                "usage": {"prompt_tokens": 5, "completion_tokens": 6},
            }
        ),
        replace(
            response(
                ReasoningPart("hm"),
                TextPart("Hi"),
                LOOKUP_CALL,
                ToolCallPart(CallId("call_b"), "charge", "{}"),
                reason=TerminalReason.TOOL_USE,
            ),
            usage=TokenUsage(5, 6),
        ),
    ),
    Scenario(
        "the legacy finish reason",
        stream(delta(finish_reason="function_call")),
        response(reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "an unknown finish reason",
        stream(delta(content="a"), delta(finish_reason="error")),
        response(TextPart("a"), reason=TerminalReason.PROVIDER_ERROR),
    ),
    Scenario("no finish reason but a text", stream(delta(content="a")), response(TextPart("a"))),
    Scenario(
        "no finish reason but a call",
        stream(tool_delta(call_id="call_a", name="lookup", arguments='{"text": "x"}')),
        response(LOOKUP_CALL, reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "an empty finish reason",
        stream(tool_delta(call_id="call_a", name="lookup", arguments='{"text": "x"}'), delta(finish_reason="")),
        response(LOOKUP_CALL, reason=TerminalReason.TOOL_USE),
    ),
    Scenario("no done marker", Reply((delta(content="a"), STOP)), response(TextPart("a"))),
    Scenario("an empty answer", stream(STOP), response()),
    Scenario("a stream of nothing but its end", stream(), response()),
    Scenario(
        "a call without id or arguments",
        stream(tool_delta(2, name="lookup"), delta(finish_reason="tool_calls")),
        response(ToolCallPart(CallId("call_2"), "lookup", "{}"), reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "a call without a name",
        stream(tool_delta(call_id="call_a", arguments="{}"), delta(content="a"), STOP),
        response(TextPart("a")),
    ),
    Scenario(
        "id and name are replaced, arguments kept as they were written",
        stream(
            tool_delta(call_id="old", name="look", arguments="{not "),
            tool_delta(call_id="call_a", name="lookup", arguments="json"),
            delta(finish_reason="tool_calls"),
        ),
        response(ToolCallPart(CallId("call_a"), "lookup", "{not json"), reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "calls that the server does not number",
        stream(
            delta(tool_calls=[{"id": "call_a", "function": {"name": "lookup", "arguments": '{"te'}}]),
            delta(tool_calls=[{"function": {"arguments": 'xt": "x"}'}}]),
            delta(tool_calls=[{"id": "call_b", "function": {"name": "charge", "arguments": "{}"}}]),
            delta(finish_reason="tool_calls"),
        ),
        response(LOOKUP_CALL, ToolCallPart(CallId("call_b"), "charge", "{}"), reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "halves of characters",
        stream(delta(content="a\ud83d"), delta(content="\ude00b"), delta(content="\udc00 \x00 \ud83d"), STOP),
        response(TextPart("a😀b� \x00 �")),
    ),
    Scenario(
        "halves of characters in a call",
        stream(tool_delta(call_id="i\ud800", name="n\ud800", arguments='"\ud83d'), tool_delta(arguments='\ude00"')),
        response(ToolCallPart(CallId("i�"), "n�", '"😀"'), reason=TerminalReason.TOOL_USE),
    ),
    Scenario(
        "fields of the wrong shape",
        stream(
            event(choices=None),
            event(choices=["x"], usage=[1]),
            event(choices=[{"delta": [], "finish_reason": 7}]),
            delta(content=5, reasoning=[], tool_calls={"a": 1}),
            delta(tool_calls=[None, {"index": 0, "function": "f"}, {"index": "x", "function": {"arguments": 9}}]),
            event(choices=[], usage={"prompt_tokens": "9", "completion_tokens": -4, "prompt_tokens_details": 3}),
            event(id="x"),
            delta(content="a"),
            STOP,
        ),
        response(TextPart("a")),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_an_answer_is_normalised(scenario: Scenario) -> None:
    with ModelEndpoint(lambda _: scenario.reply) as endpoint:
        assert ask(endpoint) == scenario.expected
        assert len(endpoint.requests) == 1


def test_deltas_are_streamed_in_order_and_add_up_to_the_answer() -> None:
    told = RecordingStream()
    pieces = (delta(reasoning="hm"), delta(content="x\ud83d"), delta(content="\ude00"), delta(content="\ud83d"), STOP)
    with ModelEndpoint(lambda _: stream(*pieces)) as endpoint:
        answer = ask(endpoint, stream=told)
    assert told.events == [("reasoning", "hm"), ("text", "x"), ("text", "😀")]
    assert answer.parts == (ReasoningPart("hm"), TextPart("x😀�"))


def test_a_character_may_be_split_over_two_chunks() -> None:
    replies: list[Reply] = []
    encoded = 'data: {"choices": [{"delta": {"content": "€😀"}}]}\n\n'.encode()
    for cut in range(len(encoded) - 14, len(encoded)):
        replies.append(stream(encoded[:cut], encoded[cut:], STOP))
    with ModelEndpoint(lambda _: replies.pop()) as endpoint:
        while replies:
            assert ask(endpoint).parts == (TextPart("€😀"),)


def test_the_last_event_needs_no_blank_line() -> None:
    with ModelEndpoint(lambda _: Reply((delta(content="a"), STOP.rstrip()))) as endpoint:
        assert ask(endpoint).parts == (TextPart("a"),)


def test_an_event_stream_without_a_content_type_is_read() -> None:
    with ModelEndpoint(lambda _: Reply((delta(content="a"), STOP), headers={})) as endpoint:
        assert ask(endpoint).parts == (TextPart("a"),)


def test_the_connection_is_used_again() -> None:
    with ModelEndpoint(lambda _: text_reply("a")) as endpoint:
        provider = openai_at(endpoint.base_url)
        for _ in range(3):
            provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
        provider.close()
        assert (len(endpoint.requests), endpoint.accepted) == (3, 1)


def test_a_tool_call_of_the_endpoint() -> None:
    with ModelEndpoint(lambda _: tool_reply("lookup", {"text": "x"}, "call_a")) as endpoint:
        answer = ask(endpoint, call_of(tools=(LOOKUP,)))
    assert answer.parts == (LOOKUP_CALL,)
    assert answer.terminal_reason is TerminalReason.TOOL_USE
