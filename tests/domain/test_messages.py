"""The transcript: what a message says, and which calls in it still have no result."""

from __future__ import annotations

from lash_tasks.domain.ids import CallId, MessageId, NodeId
from lash_tasks.domain.messages import (
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
    unanswered_calls,
)
from lash_tasks.domain.sessions import Node, chain


def message(number: int, *parts: Part) -> Message:
    return Message(MessageId(f"m1.{number}"), Role.ASSISTANT, parts)


def call(id_: str) -> ToolCallPart:
    return ToolCallPart(CallId(id_), "lookup", "{}")


def result(id_: str) -> ToolResultPart:
    return ToolResultPart(CallId(id_), "lookup", "ok")


def test_the_text_of_a_message_is_its_prose() -> None:
    assert text_of(message(0, TextPart("a"), ReasoningPart("thinking"), TextPart("b"), call("x"))) == "a\n\nb"
    assert text_of(message(0, call("x"))) == ""


def test_calls_without_a_result_are_found_in_order() -> None:
    transcript = (message(0, call("a"), call("b"), call("c")), message(1, result("b")))

    assert [part.call_id for part in unanswered_calls(transcript)] == ["a", "c"]


def test_a_result_answers_only_a_call_before_it() -> None:
    assert unanswered_calls((message(0, result("a")), message(1, call("a")))) == (call("a"),)
    assert unanswered_calls((message(0, call("a")), message(1, result("a")))) == ()
    assert unanswered_calls(()) == ()


def test_nodes_hang_one_behind_the_other() -> None:
    first, second = message(0, TextPart("a")), message(1, TextPart("b"))

    assert chain((first, second), NodeId("m0.7")) == (
        Node(NodeId("m1.0"), NodeId("m0.7"), first),
        Node(NodeId("m1.1"), NodeId("m1.0"), second),
    )
    assert chain((first,), None)[0].parent_id is None
    assert chain((), NodeId("m0.7")) == ()
