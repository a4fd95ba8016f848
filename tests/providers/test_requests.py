"""What the openai provider sends (effects §14.5)."""

from __future__ import annotations

import base64
import json

import pytest

from lash_tasks import ModelOptions
from lash_tasks.clock import FakeClock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import BlobRef, CallId
from lash_tasks.domain.messages import ImagePart, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.machine.requests import ModelMessage
from lash_tasks.ports import ProviderFailure
from lash_tasks.providers.chat_request import request_body
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import ModelEndpoint, text_reply
from tests.providers.parts import KEY, LOOKUP, RecordingStream, answered, ask, call_of, openai_at, said

CALL, OTHER = CallId("c1"), CallId("c2")


def sent(*messages: ModelMessage, system: str = "") -> list[JsonObject]:
    body: JsonObject = json.loads(request_body(call_of(messages, system=system)))
    messages_sent: list[JsonObject] = body["messages"]
    return messages_sent


def test_a_plain_question() -> None:
    body = json.loads(request_body(call_of("Where is it?", system="Be brief.")))
    assert body == {
        "model": "gpt-test",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_blank_system_prompt_is_not_sent() -> None:
    assert sent(said(TextPart("hi")), system=" \n") == [{"role": "user", "content": "hi"}]


def test_tools_come_with_a_free_choice_and_parallel_calls() -> None:
    body = json.loads(request_body(call_of(tools=(LOOKUP,))))
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "lookup", "description": "Look something up.", "parameters": LOOKUP.parameters},
        }
    ]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)


def test_a_tool_round_becomes_calls_without_content_and_one_message_for_each_result() -> None:
    assert sent(
        answered(
            ReasoningPart("hm"), ToolCallPart(CALL, "lookup", '{"text": "x"}'), ToolCallPart(CallId("c2"), "f", "{}")
        ),
        said(ToolResultPart(CALL, "lookup", "found"), ToolResultPart(CallId("c2"), "f", "null"), TextPart("and now?")),
    ) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"text": "x"}'}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "lookup", "content": "found"},
        {"role": "tool", "tool_call_id": "c2", "name": "f", "content": "null"},
        {"role": "user", "content": "and now?"},
    ]


def test_results_stand_before_the_text_that_joined_them() -> None:
    roles = [message["role"] for message in sent(said(TextPart("wait"), ToolResultPart(CALL, "lookup", "found")))]
    assert roles == ["tool", "user"]


@pytest.mark.parametrize("garbage", ["{oops", "[1]", "", "[" * 100_000, "\ud800"])
def test_arguments_that_are_no_object_are_not_sent_back(garbage: str) -> None:
    """A server that parses them would refuse this session for good."""
    [message] = sent(answered(ToolCallPart(CALL, "lookup", garbage)))
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_reasoning_is_dropped_and_an_empty_message_with_it() -> None:
    assert sent(answered(ReasoningPart("hm"), TextPart("yes")), answered(ReasoningPart("hm")), said(TextPart(""))) == [
        {"role": "assistant", "content": "yes"}
    ]


def test_an_id_that_is_too_long_for_the_server_is_sent_as_another_with_its_result() -> None:
    """Those of Anthropic, and our own, may have 64 characters; OpenAI takes 40."""
    long, other = CallId("x" * 64), CallId("functions.lookup:0")
    messages = sent(
        answered(ToolCallPart(long, "lookup", "{}"), ToolCallPart(other, "lookup", "{}")),
        said(ToolResultPart(long, "lookup", "a"), ToolResultPart(other, "lookup", "b")),
    )
    ids = [call["id"] for call in messages[0]["tool_calls"]]
    assert ids == [message["tool_call_id"] for message in messages[1:]]
    assert (len(ids[0]), ids[1]) == (29, other)


@pytest.mark.parametrize(
    ("host", "field"),
    [
        ("api.openai.com", "max_completion_tokens"),
        ("eu.api.openai.com", "max_completion_tokens"),
        ("mine.openai.azure.com", "max_completion_tokens"),
        ("127.0.0.1", "max_tokens"),
        ("notopenai.com", "max_tokens"),
    ],
)
def test_the_limit_of_the_output_goes_by_the_name_that_the_server_knows(host: str, field: str) -> None:
    options = ModelOptions(max_output_tokens=7, reasoning_effort="low")
    body = json.loads(request_body(call_of(options=options), host))
    assert (body[field], body["reasoning_effort"]) == (7, "low")
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1


def test_an_image_is_sent_as_a_data_url_in_its_place() -> None:
    blobs = {BlobRef("b1"): b"\x89PNG bytes"}
    parts = (TextPart("What is"), ImagePart(BlobRef("b1"), "image/png", "shot"), TextPart("this?"))
    body = json.loads(request_body(call_of((said(*parts),), load_blob=blobs.__getitem__)))
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG bytes").decode()
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "this?"},
    ]


def test_an_image_type_that_models_do_not_take_is_refused_before_anything_is_sent() -> None:
    call = call_of((said(ImagePart(BlobRef("b1"), "image/bmp", "shot")),))
    with ModelEndpoint() as endpoint:
        with pytest.raises(ProviderFailure) as caught:
            ask(endpoint, call)
        assert caught.value.code == "unsupported_image_format"
        assert "image/bmp" in caught.value.message
        assert endpoint.requests == []


def test_odd_text_arrives_as_valid_json() -> None:
    text = "nul \x00, half \ud83d, pair \ud83d\ude00, €"
    body = request_body(call_of((said(TextPart(text)),)))
    assert body.isascii()
    assert json.loads(body)["messages"][0]["content"] == "nul \x00, half �, pair 😀, €"


def test_the_same_call_is_the_same_bytes() -> None:
    assert request_body(call_of(tools=(LOOKUP,))) == request_body(call_of(tools=(LOOKUP,)))


def test_the_headers_carry_the_key_and_the_idempotency_key() -> None:
    with ModelEndpoint(lambda _: text_reply("ok")) as endpoint:
        ask(endpoint)
        [request] = endpoint.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["idempotency-key"] == "lash-key-1"
    assert request.headers["content-type"] == "application/json"


def test_an_idempotency_key_from_odd_ids_still_fits_a_header() -> None:
    with ModelEndpoint(lambda _: text_reply("ok")) as endpoint:
        call = call_of()
        object.__setattr__(call, "idempotency_key", "größe 7/queue:ab")
        ask(endpoint, call)
        assert endpoint.requests[0].headers["idempotency-key"] == "gr%C3%B6%C3%9Fe%207/queue:ab"


@pytest.mark.parametrize("key", [None, "", "  \n"])
def test_a_server_of_ones_own_needs_no_key(key: str | None) -> None:
    with ModelEndpoint(lambda _: text_reply("ok")) as endpoint:
        provider = openai_at(endpoint.base_url, key=key)
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
        provider.close()
        assert "authorization" not in endpoint.requests[0].headers


def test_openai_itself_needs_a_key() -> None:
    provider = openai_at("https://api.openai.com/v1", key=None)
    with pytest.raises(ProviderFailure, match="Set OPENAI_API_KEY") as caught:
        provider.complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
    assert (caught.value.code, caught.value.kind) == ("missing_api_key", "auth")
