"""What those who watch see of a turn: everything in its order, once, and nothing of what was only replayed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks import ToolContext, tool
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.messages import ReasoningPart, TextPart
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.stores.bundle import Stores
from lash_tasks.wiring import WorkerParts
from tests.services import wait_until
from tests.turns.doubles import LiveRecorder
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Death, Reached, Stage, agent

ROUND = [calls(("look", '{"at": "a"}')), says("all is well")]


@tool
def look(at: str) -> str:
    """Look."""
    return f"saw {at}"


class Watched:
    """A stage with somebody watching its workers."""

    def __init__(self, stage: Stage) -> None:
        self.live = LiveRecorder()
        self.stage = stage
        stage.agents, stage.model = [agent(look)], Model(script({"go": ROUND}))

    def run(self, reached: Reached = nothing_happens) -> list[TurnActivity]:
        """Run until it ends or dies; what was to be seen of it."""
        self.live.flushes.clear()
        self.stage.run(reached, wrap=self.watch)
        return self.live.events

    def watch(self, stores: Stores) -> Stores:
        return replace(stores, live=self.live)


@pytest.fixture
def watched(stage: Stage) -> Watched:
    return Watched(stage)


def types(events: list[TurnActivity]) -> list[ActivityType]:
    """The types in order, neighbouring text taken together."""
    return [event.type for index, event in enumerate(events) if index == 0 or event.type is not events[index - 1].type]


def text(events: list[TurnActivity]) -> str:
    return "".join(event.data["text"] for event in events if event.type is ActivityType.ASSISTANT_PROSE_DELTA)


def test_a_turn_is_seen_from_its_start_to_its_commit(watched: Watched) -> None:
    watched.stage.send("go")
    events = watched.run()
    assert types(events) == [
        ActivityType.TURN_STARTED,
        ActivityType.QUEUED_WORK_STARTED,
        ActivityType.MODEL_REQUEST_STARTED,
        ActivityType.USAGE,
        ActivityType.TOOL_CALL_STARTED,
        ActivityType.TOOL_CALL_COMPLETED,
        ActivityType.MODEL_REQUEST_STARTED,
        ActivityType.ASSISTANT_PROSE_DELTA,
        ActivityType.USAGE,
        ActivityType.COMMITTED,
    ]
    assert [event.ordinal for event in events] == list(range(1, len(events) + 1))
    assert text(events) == "all is well"
    by_type = {event.type: event.data for event in events}
    assert by_type[ActivityType.TURN_STARTED] == {"resumed": False, "turn_index": 1}
    assert by_type[ActivityType.COMMITTED] == {"outcome": "finished", "turn_index": 1}
    started, completed = by_type[ActivityType.TOOL_CALL_STARTED], by_type[ActivityType.TOOL_CALL_COMPLETED]
    assert (started["tool"], started["arguments"]) == ("look", {"at": "a"})
    assert (completed["tool"], completed["status"]) == ("look", "success")
    assert started["call_id"] == completed["call_id"]


def test_reasoning_and_prose_are_told_apart(watched: Watched) -> None:
    answer = ModelResponse((ReasoningPart("well, well"), TextPart("yes")))
    watched.stage.model = Model(script({"think": [answer]}))
    watched.stage.send("think")
    events = watched.run()
    reasoning = [event.data["text"] for event in events if event.type is ActivityType.REASONING_DELTA]
    assert ("".join(reasoning), text(events)) == ("well, well", "yes")


@pytest.mark.parametrize("point", [CrashPoint.AFTER_PERFORM, CrashPoint.AFTER_RECORD])
def test_a_resumed_turn_shows_only_what_is_done_anew_under_a_higher_fence(watched: Watched, point: CrashPoint) -> None:
    model = watched.stage.model
    assert isinstance(model, Model)
    watched.stage.send("go")
    watched.stage.run(Death(point, when=lambda: model.asked.total() == 2), wrap=watched.watch)
    (first,) = {event.fence for event in watched.live.events}
    events = watched.run()
    replayed = point is CrashPoint.AFTER_RECORD
    asked = [ActivityType.MODEL_REQUEST_STARTED, ActivityType.ASSISTANT_PROSE_DELTA, ActivityType.USAGE]
    assert types(events) == [ActivityType.TURN_STARTED, *([] if replayed else asked), ActivityType.COMMITTED]
    assert events[0].data["resumed"] is True
    assert {event.fence > first for event in events} == {True}
    # Two workers died or ended here, but the first one had made progress: it is no second attempt.
    assert {event.attempt for event in events} == {1}


def test_an_attempt_without_progress_is_told_by_its_number(watched: Watched) -> None:
    watched.stage.send("go")
    watched.stage.run(Death(CrashPoint.AFTER_OPEN), wrap=watched.watch)
    assert {event.attempt for event in watched.run()} == {2}


def test_a_stopped_turn_is_announced_by_its_kind(watched: Watched) -> None:
    watched.stage.model = Model(script({"go": [says("")]}))
    watched.stage.send("go")
    assert watched.run()[-1].data["outcome"] == "provider_error"


# ---------------------------------------------------------------- every call begins and ends


def pairs(events: list[TurnActivity]) -> list[tuple[str, str | None]]:
    """Status by tool of every call that ended, after a check that each began before it ended and once."""
    started = [event for event in events if event.type is ActivityType.TOOL_CALL_STARTED]
    completed = [event for event in events if event.type is ActivityType.TOOL_CALL_COMPLETED]
    assert sorted(event.data["call_id"] for event in started) == sorted(event.data["call_id"] for event in completed)
    began = {event.data["call_id"]: event.ordinal for event in started}
    assert all(began[event.data["call_id"]] < event.ordinal for event in completed)
    return sorted((event.data["tool"], event.data["status"]) for event in completed)


def test_calls_that_cannot_be_made_are_seen_to_begin_and_end_once(watched: Watched) -> None:
    bad = calls(("look", "{"), ("sing", "{}"), ("look", '{"at": "a"}'))
    watched.stage.model = model = Model(script({"go": [bad, calls(("sing", "")), says("done")]}))
    watched.stage.send("go")
    expected = [("look", "failure"), ("look", "success"), ("sing", "failure"), ("sing", "failure")]
    assert pairs(watched.run(Death(CrashPoint.BEFORE_COMMIT))) == expected
    assert pairs(watched.run()) == [], "what was only replayed was shown"
    assert model.asked.total() == 3


def test_a_cancelled_call_is_seen_to_end(watched: Watched) -> None:
    @tool
    def wait(ctx: ToolContext) -> str:
        """Wait to be cancelled."""
        watched.stage.cancel()
        watched.stage.beat(worker[0])
        wait_until(lambda: ctx.cancelled, 20, "the cancel")
        return "never seen"

    worker: list[WorkerParts] = []
    watched.stage.agents = [agent(wait)]
    watched.stage.model = Model(script({"go": [calls(("wait", "")), says("done")]}))
    watched.stage.send("go")
    with watched.stage.worker(wrap=watched.watch) as parts:
        worker.append(parts)
        parts.running.sessions.run(SESSION)
    assert pairs(watched.live.events) == [("wait", "cancelled")]


def test_a_call_whose_outcome_is_unknown_is_seen_to_begin_and_end(watched: Watched) -> None:
    @tool(on_crash="never")
    def charge() -> str:
        """Charge."""
        return "charged"

    watched.stage.agents = [agent(charge)]
    watched.stage.model = Model(script({"go": [calls(("charge", "")), says("done")]}))
    watched.stage.send("go")
    watched.stage.run(Death(CrashPoint.AFTER_BEGUN))
    assert pairs(watched.run()) == [("charge", "failure")]
