"""What a background process tells a session: an event in its history, once, in the running turn or one of its own."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import tool
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import Message, Origin, ProcessOrigin, Role, TextPart, text_of
from lash_tasks.domain.queue import BatchState, Enqueued
from lash_tasks.domain.wakes import QueuedWake
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.stores.sql import tables
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import AGENT, SESSION, Stage, agent
from tests.turns.test_live_events import Watched

BLOCK = "=== TURN EVENTS ==="
ROUND = [calls(("look", "{}")), says("all is well")]


@tool
def look() -> str:
    """Look."""
    return "seen"


def wake(stage: Stage, sequence: int = 1, session_id: SessionId = SESSION, **changed: Any) -> Enqueued | None:
    told: dict[str, Any] = {
        "agent": AGENT,
        "process_id": "report",
        "event_type": "done",
        "sequence": sequence,
        "wake_id": f"wake-{sequence}",
        "text": f"report {sequence} is ready",
    }
    with stage.ingress() as ingress:
        return ingress.wake(session_id, QueuedWake(**(told | changed)))


def events(stage: Stage) -> list[Message]:
    return [message for message in stage.messages() if message.role is Role.EVENT]


def blocks(model: Model, call: int) -> list[str]:
    """The blocks of events that a model was shown."""
    shown = [message for message in model.requests[call].messages if message.role is Role.USER]
    parts = [part for message in shown for part in message.parts]
    return [part.text for part in parts if isinstance(part, TextPart) and BLOCK in part.text]


@pytest.mark.shows("Q22")
def test_a_wake_that_is_told_twice_is_one_batch_one_message_and_consumed_with_its_turn(stage: Stage) -> None:
    first, again = wake(stage), wake(stage, text="report 1 is ready, once more")
    assert first is not None
    assert again is not None
    assert (first.created, again.created, again.id) == (True, False, first.id)
    [row] = stage.rows(tables.batches)
    assert (row["source_key"], row["kind"]) == ("process:report:event:1:wake", "wake")
    assert stage.rings.sessions == [SESSION]
    stage.run_all()
    assert stage.states() == {first.id: BatchState.CONSUMED}
    late = wake(stage)
    assert late is not None
    assert not late.created
    stage.run_all()
    [event] = events(stage)
    assert event.id == "wake-1"
    assert len(stage.results()) == 1


@pytest.mark.shows("Q23")
def test_a_turn_of_a_wake_alone_shows_one_block_of_events_and_no_empty_message(stage: Stage) -> None:
    stage.model = model = Model()
    wake(stage)
    stage.run_all()
    [request] = model.requests
    [message] = request.messages
    assert message.role is Role.USER
    assert message.parts == (
        TextPart(f"{BLOCK}\nBackground process wake\nProcess: report\nEvent: done #1\nWake input:\nreport 1 is ready"),
    )
    assert "report" not in request.system
    assert [message.role for message in stage.messages()] == [Role.EVENT, Role.ASSISTANT]
    stage.assert_usable()


@pytest.mark.shows("P10")
def test_a_wake_in_mid_turn_is_stored_with_its_origin_and_not_announced_as_input(stage: Stage) -> None:
    watched = Watched(stage)

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if len(model.requests) == 1:
            wake(stage, caused_by={"turn_id": "an earlier one"})

    model = Model(script({"go": ROUND}), before)
    stage.agents, stage.model = [agent(look)], model
    stage.send("go")
    seen = watched.run()
    [event] = events(stage)
    origin = ProcessOrigin(
        process_id="report",
        event_type="done",
        sequence=1,
        wake_id="wake-1",
        caused_by={"turn_id": "an earlier one"},
    )
    assert event.origin == Origin("process", process=origin)
    assert len(blocks(model, 1)) == 1
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    assert len(stage.results()) == 1
    types = [activity.type for activity in seen]
    assert types.count(ActivityType.QUEUED_WORK_STARTED) == 2
    assert not {ActivityType.QUEUED_INPUT_ACCEPTED, ActivityType.QUEUED_MESSAGES_COMMITTED} & set(types)


@pytest.mark.shows("P12")
@pytest.mark.parametrize(("limit", "in_the_turn"), [(10, 3), (3, 2)])
def test_wakes_are_taken_one_by_one_and_what_the_turns_limit_leaves_stays_queued(
    stage: Stage, limit: int, in_the_turn: int
) -> None:
    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if len(model.requests) == 1:
            for sequence in (1, 2, 3):
                wake(stage, sequence)

    stage.model = model = Model(before=before)
    stage.agents = [agent(max_iterations=limit)]
    stage.send("go")
    stage.run_all()
    first, *others = stage.results()
    assert first.ok
    assert [len(blocks(model, call)) for call in range(1 + in_the_turn)] == list(range(1 + in_the_turn))
    own = [row for row in stage.rows(tables.batches) if row["kind"] == "wake" and row["turn_id"] == first.turn_id]
    assert len(own) == in_the_turn
    assert len(others) == 3 - in_the_turn
    assert [event.id for event in events(stage)] == ["wake-1", "wake-2", "wake-3"]
    assert set(stage.states().values()) == {BatchState.CONSUMED}


def test_a_wake_of_another_context_has_a_turn_of_its_own(stage: Stage) -> None:
    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if len(model.requests) == 1:
            wake(stage, context={"user": 2})

    stage.model = model = Model(before=before)
    stage.send("go", context={"user": 1})
    stage.run_all()
    assert len(stage.results()) == 2
    assert text_of(stage.messages()[-2]).startswith("Background process wake")


@pytest.mark.shows("S19")
def test_a_wake_to_a_deleted_session_is_dropped_and_brings_nothing_back(stage: Stage) -> None:
    stage.answer("hello")
    with stage.reading() as stores:
        stores.sessions.delete(SESSION)
    before = stage.row_counts()
    del stage.rings.sessions[:]
    assert wake(stage) is None
    assert (stage.row_counts(), stage.rings.sessions) == (before, [])
    stage.run_all()
    assert stage.row_counts() == before
