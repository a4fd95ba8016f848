"""A cancel ends a turn where it stands: what is complete stays, nothing new begins, and the session goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from lash_tasks import ToolContext, tool
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.queue import BatchState, CancelVerdict
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CancelRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.sql import tables
from lash_tasks.wiring import WorkerParts
from tests.services import wait_until
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Death, SimulatedDeath, Stage, agent

CANCELLED = stopped(StopKind.CANCELLED)
THREE = {"go": [calls(("look", '{"at": "a"}'), ("look", '{"at": "b"}'), ("look", '{"at": "c"}')), says("done")]}


@tool
def look(at: str) -> str:
    """Look."""
    return f"saw {at}"


def asked(stage: Stage) -> int:
    assert isinstance(stage.model, Model)
    return stage.model.asked.total()


def assert_cancelled(stage: Stage) -> None:
    """The last turn was cancelled and is over like any other: committed, its input consumed, its cancel forgotten."""
    turn = stage.last()
    assert (turn.outcome, turn.errors) == (CANCELLED, ())
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    assert stage.rows(tables.turn_cancels) == []
    assert stage.transcript()[0]["role"] == "user"
    stage.assert_usable()


# ---------------------------------------------------------------- at each place of a turn


def test_before_the_first_effect_nothing_is_asked(stage: Stage) -> None:
    stage.send("go")
    assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    stage.cancel()
    stage.run_all()
    assert asked(stage) == 0
    assert len(stage.messages()) == 1
    assert_cancelled(stage)


def test_a_cancel_that_a_beat_finds_before_the_first_effect_counts(stage: Stage) -> None:
    stage.send("go")
    worker: list[WorkerParts] = []

    def reached(point: CrashPoint) -> None:
        if point is CrashPoint.AFTER_OPEN:
            stage.cancel()
            stage.beat(worker[0])

    with stage.worker(reached) as parts:
        worker.append(parts)
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert asked(stage) == 0
    assert_cancelled(stage)


@pytest.mark.shows("P7")
def test_in_a_model_call_the_provider_is_interrupted_and_half_an_answer_is_dropped(stage: Stage) -> None:
    seen: list[Interrupt] = []

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        seen.append(interrupt)

    stage.model = Model(before=before)
    stage.send("hello [slow 30]")
    with stage.worker() as parts, ThreadPoolExecutor(1) as beside:
        running = beside.submit(parts.running.sessions.run, SESSION)
        wait_until(lambda: seen, 20, "the model call")
        stage.cancel()
        stage.beat(parts)
        assert running.result(10) is RunVerdict.COMMITTED
        assert seen[0].reason == "cancelled"
    assert stage.last().text == ""
    assert [message["role"] for message in stage.transcript()] == ["user"]
    assert_cancelled(stage)


def test_a_cancel_that_a_record_finds_keeps_the_next_tools_from_running(stage: Stage) -> None:
    stage.agents = [agent(look)]
    stage.model = Model(script(THREE), before=lambda *_: stage.cancel() if asked(stage) == 1 else None)
    turn = stage.answer("go")
    assert [call.outcome.status for call in turn.tool_calls] == [ToolStatus.CANCELLED] * 3
    assert asked(stage) == 1
    assert_cancelled(stage)


def test_among_running_tools_what_is_recorded_stays_and_the_rest_is_cancelled(stage: Stage) -> None:
    begun = threading.Barrier(3)
    told: list[str] = []
    late = threading.Event()

    @tool
    def look(at: str, ctx: ToolContext) -> str:
        """Look."""
        begun.wait(20)
        if at == "a":
            stage.cancel()
        else:
            wait_until(lambda: ctx.cancelled, 20, "the tool to be told")
            told.append(at)
            if len(told) == 2:
                late.set()
        return f"saw {at}"

    stage.agents, stage.model = [agent(look)], Model(script(THREE))
    turn = stage.answer("go")
    assert [call.outcome.status for call in turn.tool_calls] == [
        ToolStatus.SUCCESS,
        ToolStatus.CANCELLED,
        ToolStatus.CANCELLED,
    ]
    assert late.wait(20)
    results = stage.transcript()[-1]["parts"]
    assert [part["text"].splitlines()[0] for part in results] == ["saw a", *["[Tool execution cancelled]"] * 2]
    assert asked(stage) == 1
    assert_cancelled(stage)


def test_between_tools_and_the_next_model_call_all_results_stay(stage: Stage) -> None:
    stage.agents, stage.model = [agent(look)], Model(script(THREE))
    stage.send("go")
    # Dies when all three are recorded; the cancel comes while nobody is there.
    records = iter(range(99))
    assert stage.run(Death(CrashPoint.AFTER_RECORD, when=lambda: next(records) == 3)) is None
    stage.cancel()
    stage.run_all()
    assert [call.outcome.value for call in stage.last().tool_calls] == ["saw a", "saw b", "saw c"]
    assert asked(stage) == 1
    assert_cancelled(stage)


@pytest.mark.parametrize("through", ["record", "beat"])
def test_after_the_answer_the_finished_turn_stands(stage: Stage, through: str) -> None:
    worker: list[WorkerParts] = []

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if through == "record" and asked(stage) == 1:
            stage.cancel()

    def reached(point: CrashPoint) -> None:
        if through == "beat" and point is CrashPoint.AFTER_RECORD:
            stage.cancel()
            stage.beat(worker[0])

    stage.model = Model(before=before)
    stage.send("go")
    with stage.worker(reached) as parts:
        worker.append(parts)
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert (stage.last().ok, stage.last().text) == (True, "You said: go")
    assert stage.rows(tables.turn_cancels) == []
    stage.assert_usable()


# ---------------------------------------------------------------- across deaths


def cancelled_in_the_round(stage: Stage, reached: Callable[[CrashPoint], None]) -> None:
    """A turn that is cancelled when the first of its two tools is recorded."""

    @tool
    def look(at: str, ctx: ToolContext) -> str:
        """Look."""
        if at == "a":
            stage.cancel()
        else:
            wait_until(lambda: ctx.cancelled, 20, "the tool to be told")
        return f"saw {at}"

    stage.agents = [agent(look)]
    stage.model = Model(script({"go": [calls(("look", '{"at": "a"}'), ("look", '{"at": "b"}')), says("done")]}))
    stage.send("go")
    stage.run_all(reached)


class DieOnceAt:
    def __init__(self, point: CrashPoint | None) -> None:
        self._point = point

    def __call__(self, point: CrashPoint) -> None:
        if point is self._point:
            self._point = None
            raise SimulatedDeath(point)


@pytest.mark.parametrize("point", [None, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
def test_a_replay_stops_where_the_cancelled_turn_stopped(stage: Stage, point: CrashPoint | None) -> None:
    cancelled_in_the_round(stage, DieOnceAt(point))
    (turn,) = stage.results()
    assert [call.outcome.status for call in turn.tool_calls] == [ToolStatus.SUCCESS, ToolStatus.CANCELLED]
    results: list[Any] = stage.transcript()[-1]["parts"]
    assert [part["text"].splitlines()[0] for part in results] == ["saw a", "[Tool execution cancelled]"]
    assert asked(stage) == 1
    assert_cancelled(stage)


def test_an_input_behind_a_cancelled_turn_is_answered(stage: Stage) -> None:
    stage.send("go")
    assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    stage.send("behind")
    stage.cancel()
    stage.run_all()
    assert [turn.outcome == CANCELLED for turn in stage.results()] == [True, False]
    assert stage.last().text == "You said: behind"


# ---------------------------------------------------------------- what the canceller is told


def test_a_cancel_is_requested_once_and_ends_with_the_turn(stage: Stage) -> None:
    stage.send("go")
    assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    first, second = stage.cancel(), stage.cancel()
    assert first == second
    assert first.verdict is CancelVerdict.REQUESTED
    assert len(stage.rows(tables.turn_cancels)) == 1
    stage.run_all()
    request = CancelRequest.parse({"session_id": SESSION, "turn_id": first.turn_id})
    with stage.ingress() as ingress:
        assert ingress.cancel(request) == replace(first, verdict=CancelVerdict.ENDED)
    assert stage.rows(tables.turn_cancels) == []
