"""How the transcript becomes a model request: nothing a provider would refuse, nothing that differs on a replay."""

from __future__ import annotations

import pytest
from hypothesis import given

from lash_tasks.domain.codec import parse_object
from lash_tasks.domain.ids import BlobRef, CallId, MessageId
from lash_tasks.domain.messages import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolStatus,
)
from lash_tasks.machine.projection import Transcript, project
from lash_tasks.machine.requests import ModelMessage
from tests.domain.json_values import arguments as any_arguments
from tests.domain.laws import law
from tests.machine.turns import AGENT

CALL = CallId("x")
IMAGE = ImagePart(BlobRef("0f" * 32), "image/png", "photo")
REASONING = ReasoningPart("hm", {"signature": "s"})
RESULT = ToolResultPart(CALL, "lookup", "no", ToolStatus.FAILURE)


def message(role: Role, *parts: Part) -> Message:
    return Message(MessageId("m1.0"), role, parts)


def projected(role: Role, *parts: Part) -> tuple[ModelMessage, ...]:
    return project(AGENT, "Answer.", Transcript().grown((message(role, *parts),))).messages


def sent_call(tool: str, arguments: str) -> ToolCallPart:
    ((part,),) = (sent.parts for sent in projected(Role.ASSISTANT, ToolCallPart(CALL, tool, arguments)))
    assert isinstance(part, ToolCallPart)
    return part


def test_instructions_and_tools_are_the_agents() -> None:
    request = project(AGENT, "  Answer.\n", Transcript())

    assert (request.system, request.tools, request.messages) == ("Answer.", AGENT.tools, ())


@pytest.mark.parametrize(
    ("role", "sent_as"),
    [
        (Role.USER, Role.USER),
        (Role.ASSISTANT, Role.ASSISTANT),
        (Role.SYSTEM, Role.USER),
        (Role.EVENT, Role.USER),
    ],
)
def test_a_request_has_two_roles(role: Role, sent_as: Role) -> None:
    assert projected(role, TextPart("a"))[0].role is sent_as


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (Role.USER, "limit"),
        (Role.ASSISTANT, "limit"),
        (Role.SYSTEM, "Runtime note:\nlimit"),
        (Role.EVENT, "=== TURN EVENTS ===\nlimit"),
    ],
)
def test_notes_of_the_runtime_say_that_they_are(role: Role, text: str) -> None:
    assert projected(role, TextPart("limit"))[0].parts == (TextPart(text),)


def test_what_cannot_be_sent_back_is_left_out() -> None:
    parts = (TextPart(" \n"), ReasoningPart("no signature"), REASONING, IMAGE, RESULT, TextPart("a", {"id": "i"}))

    assert projected(Role.USER, *parts)[0].parts == (REASONING, IMAGE, RESULT, TextPart("a", {"id": "i"}))


def test_a_message_of_which_nothing_is_left_is_left_out() -> None:
    messages = (message(Role.USER, TextPart("a")), message(Role.ASSISTANT, ReasoningPart("hm")), message(Role.USER))

    assert project(AGENT, "", Transcript().grown(messages)).messages == (ModelMessage(Role.USER, (TextPart("a"),)),)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ('{"b": 1,  "a": 2}', '{"a":2,"b":1}'),
        ("", "{}"),
        ("{oops", "{}"),
        ("[1]", "{}"),
        ('{"a": 1e999}', "{}"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "{}"),
        ('{"a": "\\ud800"}', '{"a":"\ufffd"}'),
    ],
)
def test_arguments_are_sent_as_an_object(written: str, sent: str) -> None:
    assert sent_call("lookup", written).arguments == sent


@pytest.mark.parametrize(
    ("made_up", "sent"),
    [
        ("lookup", "lookup"),
        ("look-up_2", "look-up_2"),
        ("functions.lookup", "functions_lookup"),
        ("look up\x00é", "look_up__"),
        ("", "_"),
        ("x" * 100, "x" * 64),
    ],
)
def test_a_name_that_a_model_made_up_is_sent_in_letters_that_providers_take(made_up: str, sent: str) -> None:
    """OpenAI answers 400 to a name with a dot in it, in this request and in every later one of the session."""
    assert sent_call(made_up, "{}").tool == sent
    (result,) = projected(Role.USER, ToolResultPart(CALL, made_up, "no"))[0].parts
    assert result == ToolResultPart(CALL, sent, "no")


@law
@given(any_arguments)
def test_whatever_a_model_wrote_is_sent_as_an_object_in_valid_unicode(written: str) -> None:
    sent = sent_call("lookup", written).arguments

    assert sent.encode("utf-8")
    assert sent_call("lookup", sent).arguments == sent
    parse_object(sent)
