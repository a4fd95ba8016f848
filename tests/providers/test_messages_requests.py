"""What the anthropic provider sends (effects §14.6)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from lash_tasks import ModelOptions
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import BlobRef, CallId
from lash_tasks.domain.messages import (
    ImagePart,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolStatus,
)
from lash_tasks.machine.requests import ModelMessage
from lash_tasks.ports import ModelCall
from lash_tasks.providers.messages_request import DEFAULT_MAX_TOKENS, request_body
from tests.providers.parts import LOOKUP, answered, call_of, said

HOST = "api.anthropic.com"
CACHED = {"type": "ephemeral"}
CALL = ToolCallPart(CallId("toolu_1"), "lookup", '{"text": "x"}')
SIGNED = ReasoningPart("hm", {"signature": "sig", "host": HOST})


def body_of(call: ModelCall) -> JsonObject:
    body: JsonObject = json.loads(request_body(call, HOST))
    return body


def sent(*messages: ModelMessage) -> list[JsonObject]:
    """The messages as they are sent, without marks for the cache."""
    found: list[JsonObject] = body_of(call_of(messages, tools=(LOOKUP,)))["messages"]
    for message in found:
        for block in message["content"]:
            block.pop("cache_control", None)
    return found


def result(call_id: str, text: str = "found", status: ToolStatus = ToolStatus.SUCCESS) -> ToolResultPart:
    return ToolResultPart(CallId(call_id), "lookup", text, status)


def test_a_plain_question() -> None:
    assert body_of(call_of("Where is it?", system="Be brief.", model="claude-test")) == {
        "model": "claude-test",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": CACHED}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where is it?", "cache_control": CACHED}]},
        ],
        "stream": True,
    }


def test_tools_come_with_a_free_choice() -> None:
    body = body_of(call_of(tools=(LOOKUP,)))
    assert body["tools"] == [
        {
            "name": "lookup",
            "description": "Look something up.",
            "input_schema": LOOKUP.parameters,
            "cache_control": CACHED,
        }
    ]
    assert body["tool_choice"] == {"type": "auto"}


def test_a_history_with_calls_is_sent_with_its_tools_where_none_is_on_offer() -> None:
    """The server refuses blocks of calls in a request that names no tools."""
    body = body_of(call_of((said(TextPart("x")), answered(CALL), said(result("toolu_1")))))
    assert [tool["name"] for tool in body["tools"]] == ["lookup"]
    assert body["tool_choice"] == {"type": "none"}


def test_a_tool_round_with_its_reasoning() -> None:
    failed = result("toolu_2", "[Tool execution failed]\nno", ToolStatus.FAILURE)
    other = ToolCallPart(CallId("toolu_2"), "lookup", "{broken")
    assert sent(said(TextPart("x")), answered(SIGNED, CALL, other), said(result("toolu_1"), failed)) == [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"text": "x"}},
                {"type": "tool_use", "id": "toolu_2", "name": "lookup", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "[Tool execution failed]\nno",
                    "is_error": True,
                },
            ],
        },
    ]


def test_reasoning_that_this_server_did_not_sign_is_not_sent() -> None:
    redacted = ReasoningPart("", {"redacted": "opaque", "host": HOST})
    elsewhere = ReasoningPart("hm", {"signature": "sig", "host": "other.example"})
    parts = (ReasoningPart("unsigned"), elsewhere, redacted, TextPart("yes"))
    assert sent(said(TextPart("x")), answered(*parts), answered(ReasoningPart("alone")), said(TextPart("y"))) == [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {
            "role": "assistant",
            "content": [{"type": "redacted_thinking", "data": "opaque"}, {"type": "text", "text": "yes"}],
        },
        {"role": "user", "content": [{"type": "text", "text": "y"}]},
    ]


def test_neighbours_of_one_role_become_one_message_with_results_first() -> None:
    messages = sent(
        said(TextPart("x")),
        said(TextPart("and"), TextPart("  ")),
        answered(TextPart("I look.")),
        answered(CALL),
        said(TextPart("wait")),
        said(result("toolu_1", "")),
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [block.get("text") for block in messages[0]["content"]] == ["x", "and"]
    assert messages[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1"},
        {"type": "text", "text": "wait"},
    ]


def test_an_id_that_the_server_refuses_is_sent_as_another_with_its_result() -> None:
    odd, long = "call.1:#2", "x" * 100
    messages = sent(
        said(TextPart("x")),
        answered(ToolCallPart(CallId(odd), "lookup", "{}"), ToolCallPart(CallId(long), "lookup", "{}")),
        said(result(odd), result(long)),
    )
    calls = [block["id"] for block in messages[1]["content"]]
    assert calls == [block["tool_use_id"] for block in messages[2]["content"]]
    assert len(set(calls)) == 2
    assert all(call.startswith("call_") and len(call) == 29 for call in calls)


def test_an_id_that_two_turns_share_is_told_apart() -> None:
    """Some servers count from zero in each turn; the session is not refused here for good because of them."""
    turn = (said(TextPart("x")), answered(CALL), said(result("toolu_1")), answered(TextPart("y")))
    messages = sent(*turn, *turn, *turn)
    calls = [block["id"] for message in messages for block in message["content"] if block["type"] == "tool_use"]
    results = [
        block["tool_use_id"] for message in messages for block in message["content"] if block["type"] == "tool_result"
    ]
    assert calls == results
    assert (len(set(calls)), calls[0]) == (3, "toolu_1")


def test_an_image_is_sent_in_its_place() -> None:
    blobs = {BlobRef("b1"): b"\x89PNG bytes"}
    parts = (TextPart("What is"), ImagePart(BlobRef("b1"), "image/png", "shot"), TextPart("this?"))
    [message] = body_of(call_of((said(*parts),), load_blob=blobs.__getitem__))["messages"]
    data = base64.b64encode(b"\x89PNG bytes").decode()
    assert message["content"] == [
        {"type": "text", "text": "What is"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "text", "text": "this?", "cache_control": CACHED},
    ]


def test_odd_text_arrives_as_valid_json() -> None:
    call = ToolCallPart(CallId("toolu_1"), "lookup", '{"text": "half \\ud83d", "n": 1e999}')
    messages = (said(TextPart("half \ud83d, €")), answered(call), said(result("toolu_1", "\ud800")))
    body = request_body(call_of(messages), HOST)
    assert body.isascii()
    first, second, third = json.loads(body)["messages"]
    assert first["content"][0]["text"] == "half �, €"
    assert second["content"][0]["input"] == {}
    assert third["content"][0]["content"] == "�"


# ---------------------------------------------------------------- reasoning


ADAPTIVE, DISABLED = {"type": "adaptive"}, {"type": "disabled"}


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "output"),
    [
        ("claude-opus-4-6", "high", ADAPTIVE, {"effort": "high"}),
        ("claude-opus-4-6", "xhigh", ADAPTIVE, {"effort": "high"}),
        ("claude-opus-4-7", "xhigh", ADAPTIVE, {"effort": "xhigh"}),
        ("claude-sonnet-5", "minimal", ADAPTIVE, {"effort": "low"}),
        ("claude-sonnet-5", "max", ADAPTIVE, {"effort": "max"}),
        ("some-model", "medium", ADAPTIVE, {"effort": "medium"}),
        ("claude-sonnet-4-20250514", "low", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-haiku-4-5-20251001", "medium", {"type": "enabled", "budget_tokens": 4096}, None),
        ("claude-3-7-sonnet-latest", "max", {"type": "enabled", "budget_tokens": 12288}, None),
        ("claude-opus-4-6", "none", DISABLED, None),
        ("claude-opus-4-6", None, None, None),
    ],
)
def test_how_hard_a_model_thinks(model: str, effort: str | None, thinking: Any, output: Any) -> None:
    body = body_of(call_of(model=model, options=ModelOptions(reasoning_effort=effort)))
    assert (body.get("thinking"), body.get("output_config")) == (thinking, output)


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        ("claude-sonnet-4-6", None, True),
        ("claude-sonnet-4-6", "none", True),
        ("claude-sonnet-4-6", "low", False),
        ("claude-haiku-4-5-20251001", "low", False),
        ("claude-opus-4-7", None, False),
        ("claude-sonnet-5", None, False),
        ("claude-mythos-preview", None, False),
        ("some-model", None, True),
    ],
)
def test_a_temperature_is_sent_to_models_that_take_one(model: str, effort: str | None, sent: bool) -> None:
    body = body_of(call_of(model=model, options=ModelOptions(reasoning_effort=effort, temperature=0.5)))
    assert ("temperature" in body) is sent


@pytest.mark.parametrize(("limit", "budget"), [(5000, 4096), (2000, 1999), (1024, None)])
def test_a_budget_leaves_room_for_an_answer(limit: int, budget: int | None) -> None:
    options = ModelOptions(reasoning_effort="medium", max_output_tokens=limit)
    body = body_of(call_of(model="claude-haiku-4-5", options=options))
    assert body.get("thinking", {}).get("budget_tokens") == budget


@pytest.mark.parametrize(("reasoning", "thinks"), [((SIGNED,), True), ((), False), ((ReasoningPart("hm"),), False)])
def test_calls_that_began_without_thinking_here_go_on_without_it(
    reasoning: tuple[ReasoningPart, ...], thinks: bool
) -> None:
    """A fallback in the middle of a turn: the server wants the calls that it answers to begin with its own thinking."""
    messages = (said(TextPart("x")), answered(*reasoning, CALL), said(result("toolu_1")))
    options = ModelOptions(reasoning_effort="low")
    for model, expected in (("claude-haiku-4-5", thinks), ("claude-opus-4-6", True)):
        body = body_of(call_of(messages, model=model, options=options))
        assert ("thinking" in body) is expected
