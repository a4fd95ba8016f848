"""What is in a batch, and what a turn keeps of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import BatchId, MessageId, SessionId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import Message, Origin, ProcessOrigin, Role, TextPart, text_of
from lash_tasks.domain.queue import (
    Arrival,
    BatchKind,
    BatchRecord,
    BatchState,
    JoinedInput,
    When,
    arrival,
    opening_messages,
    queued,
    wake_draft,
)
from lash_tasks.domain.wakes import QueuedWake

WAKE = QueuedWake(agent="support", process_id="p", event_type="done", sequence=3, wake_id="w1", text="It is ready.")
INPUT = QueuedInput("support", (TextPart("a"),))


def batch(kind: BatchKind | None, payload: bytes) -> BatchRecord:
    return BatchRecord(
        id=BatchId("b1"),
        session_id=SessionId("s"),
        seq=1,
        agent="support",
        state=BatchState.CLAIMED,
        turn_id=None,
        source_key=None,
        early=True,
        exclusive=True,
        merge_key=None,
        available_at_ms=0,
        enqueued_at_ms=0,
        payload=payload,
        kind=kind,
    )


@pytest.mark.parametrize(
    ("when", "rule"),
    [
        (When.QUEUE, Arrival()),
        (When.REJECT, Arrival()),
        (When.STEER, Arrival(early=True, exclusive=False, merge_key="steer")),
        (When.INTERRUPT, Arrival(urgent=True)),
        (When.MERGE, Arrival(exclusive=False, merge_key="m")),
    ],
)
def test_every_rule_is_a_few_facts_for_the_queue(when: When, rule: Arrival) -> None:
    assert arrival(when, "m") == rule


@pytest.mark.shows("Q29")
def test_inputs_that_start_a_turn_together_stay_apart() -> None:
    inputs = [INPUT, replace(INPUT, parts=(TextPart("b"),))]

    assert opening_messages(inputs, [MessageId("m1.0"), MessageId("m1.1")]) == (
        Message(MessageId("m1.0"), Role.USER, (TextPart("a"),)),
        Message(MessageId("m1.1"), Role.USER, (TextPart("b"),)),
    )


def test_an_input_that_joined_says_where_it_came_from() -> None:
    message = JoinedInput(BatchId("b9"), "msg-991", INPUT).message(MessageId("m1.4"))

    assert message == Message(MessageId("m1.4"), Role.USER, (TextPart("a"),), Origin("injected", "b9", "msg-991"))


def test_a_wake_is_an_event_under_its_own_id() -> None:
    [message] = opening_messages([WAKE], [MessageId("m1.0")])

    assert message == JoinedInput(BatchId("b9"), WAKE.source_key, wake=WAKE).message(MessageId("m1.4"))
    assert (message.id, message.role) == ("w1", Role.EVENT)
    assert text_of(message) == "Background process wake\nProcess: p\nEvent: done #3\nWake input:\nIt is ready."
    origin = ProcessOrigin(process_id="p", event_type="done", sequence=3, wake_id="w1")
    assert message.origin == Origin("process", process=origin)


def test_a_batch_is_read_by_its_kind() -> None:
    assert queued(batch(None, encode(QueuedInput, INPUT))) == INPUT
    assert queued(batch(BatchKind.WAKE, encode(QueuedWake, WAKE))) == WAKE
    with pytest.raises(ValueError, match="not for a model"):
        queued(batch(BatchKind.COMMAND, b""))


def test_a_wake_is_taken_early_and_alone_and_of_one_event_the_first_counts() -> None:
    draft = wake_draft(BatchId("b1"), SessionId("s"), WAKE)
    again = wake_draft(BatchId("b2"), SessionId("s"), replace(WAKE, text="It is ready again."))

    assert (draft.kind, draft.early, draft.exclusive, draft.urgent) == (BatchKind.WAKE, True, True, False)
    assert draft.source_key == again.source_key == "process:p:event:3:wake"
    assert draft.input_digest == again.input_digest
