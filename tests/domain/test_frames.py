"""Frames: their names, the turns of a run, and the messages that a frame may begin with."""

from __future__ import annotations

import re

import pytest

from lash_tasks.domain.frames import (
    FrameRecord,
    FrameStatus,
    Seed,
    compaction_frame_id,
    derived_frame_id,
    follow_up_turn_id,
    frame_number,
    initial_frame_id,
    read_seeds,
    seed_nodes,
    shown_frame_id,
    stored_frame_id,
)
from lash_tasks.domain.ids import CallId, MessageId, NodeId, SessionId, TurnId
from lash_tasks.domain.messages import Message, Role, TextPart, ToolCallPart, ToolResultPart

SESSION = SessionId("customer-7")
CALL = Message(MessageId("m1.1"), Role.ASSISTANT, (ToolCallPart(CallId("a"), "lookup", "{}"),))
RESULT = Message(MessageId("m1.2"), Role.USER, (ToolResultPart(CallId("a"), "lookup", "ok"),))


def test_the_initial_frame_has_a_name_and_no_row() -> None:
    assert initial_frame_id(SESSION) == "customer-7:frame:initial"
    assert stored_frame_id(SESSION, "customer-7:frame:initial") is None
    assert shown_frame_id(SESSION, None) == "customer-7:frame:initial"
    assert shown_frame_id(SESSION, stored_frame_id(SESSION, "plan")) == "plan"
    assert compaction_frame_id(SESSION, "12ab") == "customer-7:frame:compaction:12ab"


def test_a_frame_without_a_name_is_the_same_on_every_attempt_of_its_call() -> None:
    assert derived_frame_id(SESSION, "lash-1") == derived_frame_id(SESSION, "lash-1")
    assert derived_frame_id(SESSION, "lash-1") != derived_frame_id(SESSION, "lash-2")
    assert derived_frame_id(SESSION, "lash-1").startswith("customer-7:frame:")


def test_the_turns_of_a_run_are_numbered_behind_the_turn_that_began_it() -> None:
    root = TurnId("queue:12ab")
    first = follow_up_turn_id(root)

    assert first == "queue:12ab:agent-frame:1"
    assert follow_up_turn_id(first) == "queue:12ab:agent-frame:2"
    assert (frame_number(root), frame_number(first)) == ((root, 0), (root, 1))


@pytest.mark.parametrize("odd", ["a:agent-frame:0", "a:agent-frame:01", "a:agent-frame:x", ":agent-frame:1", "agent"])
def test_another_turn_id_begins_a_run_of_its_own(odd: str) -> None:
    assert frame_number(TurnId(odd)) == (odd, 0)


def test_a_frame_says_when_it_was_opened_as_rfc_3339() -> None:
    frame = FrameRecord(
        session_id=SESSION,
        frame_id="plan",
        previous_frame_id=initial_frame_id(SESSION),
        status=FrameStatus.ACTIVE,
        reason="plan_mode",
        assignment={},
        created_at_ms=1_700_000_000_123,
    )
    assert frame.created_at == "2023-11-14T22:13:20.123Z"


def test_seeds_are_texts_messages_of_the_session_or_a_role_with_a_text() -> None:
    seeds = read_seeds(["Hi \ud800", CALL, RESULT, {"role": "system", "text": "so far: …"}])

    assert seeds == (
        Seed(Role.USER, (TextPart("Hi \ufffd"),)),
        Seed(Role.ASSISTANT, CALL.parts),
        Seed(Role.USER, RESULT.parts),
        Seed(Role.SYSTEM, (TextPart("so far: …"),)),
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("text", "must be a list of messages, not str"),
        ({"role": "user", "text": "a"}, "must be a list of messages, not dict"),
        (None, "must be a list of messages, not NoneType"),
        (["a", " "], "[1] must not be blank"),
        ([1], "[0] must be a text, a Message or a mapping of role and text"),
        ([{"role": "user"}], "[0] must be a text, a Message or a mapping of role and text"),
        ([{"role": "user", "text": 1}], "[0] must be a text, a Message or a mapping of role and text"),
        ([{"role": "boss", "text": "a"}], "[0]: role must be one of user, assistant, system, event, not 'boss'"),
        ([Message(MessageId("m"), Role.USER, ())], "[0] is a message without content"),
        ([RESULT], "[0] answers the tool call 'a', which is not before it"),
        ([CALL], "holds the tool call 'a' without its result"),
    ],
)
def test_what_no_frame_can_begin_with_is_refused(given: object, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        read_seeds(given)


def test_the_nodes_of_a_frame_hang_from_the_last_one_of_the_frame_before() -> None:
    first, second = seed_nodes(read_seeds(["a", "b"]), "plan", turn_index=3, first=4, parent=NodeId("m3.3"))

    assert (first.node_id, first.parent_id, first.frame_id) == ("m3.4", "m3.3", "plan")
    assert (second.node_id, second.parent_id, second.frame_id) == ("m3.5", "m3.4", "plan")
    assert second.content == Message(MessageId("m3.5"), Role.USER, (TextPart("b"),))
