"""What the anthropic provider makes of an answer, where Messages differ from Chat Completions (effects §14.6)."""

from __future__ import annotations

import pytest

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelResponse, TerminalReason
from tests import messages_endpoint as messages
from tests.endpoint import ModelEndpoint, Reply, json_reply
from tests.messages_endpoint import block, delta, event, reply, start, text_block, thinking_block, tool_block
from tests.providers.wires import Asking, MessagesWire


def answer(given: Reply) -> ModelResponse:
    with ModelEndpoint(lambda _: given) as endpoint:
        return Asking(MessagesWire(), endpoint)()


def test_the_request_names_its_path_and_the_version_of_the_api() -> None:
    with ModelEndpoint(lambda _: reply(text_block(0, "hi"))) as endpoint:
        Asking(MessagesWire(), endpoint)()
        [request] = endpoint.requests
    assert (request.path, request.headers["anthropic-version"]) == ("/v1/messages", "2023-06-01")


def test_reasoning_keeps_its_signature_and_whose_it_is() -> None:
    blocks = (
        thinking_block(0, "hm", "sig"),
        block(1, {"type": "redacted_thinking", "data": "opaque"}),
        thinking_block(2, "", "sig of what is not shown"),
        text_block(3, "a"),
    )
    assert answer(reply(*blocks)).parts == (
        ReasoningPart("hm", {"signature": "sig", "host": "127.0.0.1"}),
        ReasoningPart("", {"redacted": "opaque", "host": "127.0.0.1"}),
        ReasoningPart("", {"signature": "sig of what is not shown", "host": "127.0.0.1"}),
        TextPart("a"),
    )


def test_tokens_written_to_the_cache_are_input_and_late_counts_replace_early_ones() -> None:
    first = start(input_tokens=5, cache_creation_input_tokens=30, cache_read_input_tokens=100, output_tokens=1)
    given = Reply((first, *text_block(0, "a"), delta("end_turn", output_tokens=9, input_tokens=6), messages.STOP))
    assert answer(given).usage == TokenUsage(136, 9, cached_input_tokens=100)


def test_tokens_of_thinking_are_part_of_the_output() -> None:
    usage = {"output_tokens": 50, "output_tokens_details": {"thinking_tokens": 40}}
    ends = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    assert answer(Reply((start(), *text_block(0, "a"), ends, messages.STOP))).usage == TokenUsage(
        10, 50, reasoning_tokens=40
    )


def test_a_refusal_keeps_its_explanation() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "This may harm."}
    ends = event("message_delta", delta={"stop_reason": "refusal", "stop_details": details}, usage={"output_tokens": 1})
    refused = answer(Reply((start(), ends, messages.STOP)))
    assert (refused.terminal_reason, refused.diagnostic) == (TerminalReason.CONTENT_FILTER, "This may harm.")


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", TerminalReason.STOP),
        ("stop_sequence", TerminalReason.STOP),
        ("pause_turn", TerminalReason.STOP),
        ("tool_use", TerminalReason.TOOL_USE),
        ("max_tokens", TerminalReason.OUTPUT_LIMIT),
        ("model_context_window_exceeded", TerminalReason.OUTPUT_LIMIT),
        ("refusal", TerminalReason.CONTENT_FILTER),
        ("something_new", TerminalReason.PROVIDER_ERROR),
        ("", TerminalReason.STOP),
    ],
)
def test_the_stop_reasons(stop_reason: str, expected: TerminalReason) -> None:
    assert answer(reply(text_block(0, "a"), stop_reason=stop_reason)).terminal_reason is expected


def test_blocks_stand_in_the_order_of_their_numbers() -> None:
    blocks = (tool_block(2, "lookup", "{}"), text_block(0, "first"), text_block(1, "second"))
    assert answer(reply(*blocks, stop_reason="tool_use")).parts == (
        TextPart("first"),
        TextPart("second"),
        ToolCallPart(CallId("toolu_1"), "lookup", "{}"),
    )


def test_a_whole_message_that_was_not_streamed() -> None:
    content: list[JsonObject] = [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"text": "€"}},
    ]
    usage = {"input_tokens": 3, "output_tokens": 4}
    assert answer(json_reply({"content": content, "stop_reason": "tool_use", "usage": usage})) == ModelResponse(
        (
            ReasoningPart("hm", {"signature": "sig", "host": "127.0.0.1"}),
            TextPart("I look."),
            ToolCallPart(CallId("toolu_1"), "lookup", '{"text": "\\u20ac"}'),
        ),
        TokenUsage(3, 4),
        TerminalReason.TOOL_USE,
    )


def test_what_has_the_wrong_shape_counts_as_not_sent() -> None:
    steps = [
        event("message_start", message=[], usage=7),
        event("content_block_start", index="x", content_block={"type": "text", "text": "no"}),
        event("content_block_start", index=5),
        event("content_block_delta", index=9, delta={"type": "text_delta", "text": "no"}),
        *block(4, {"type": "server_tool_use", "id": "s", "name": "web"}, {"type": "new_delta", "text": "no"}),
        *block(3, {"type": "tool_use", "id": 5, "name": None}, {"type": "input_json_delta", "partial_json": {}}),
        event("something_new", content=["no"]),
        *block(0, {"type": "text", "text": 5}, {"type": "text_delta", "text": ["no"]}, {"type": "text_delta"}),
        *text_block(1, "a"),
        event("message_delta", delta=None, usage={"output_tokens": "many", "input_tokens": -3}),
        delta("end_turn"),
        messages.STOP,
    ]
    assert answer(Reply(steps)) == ModelResponse((TextPart("a"),), terminal_reason=TerminalReason.STOP)
