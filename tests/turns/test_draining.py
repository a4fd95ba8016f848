"""A worker that leaves gives its turns up where they stand: another goes on, and nothing recorded is done again."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks import ToolContext, tool
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, ProviderFailure
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.drain import drain
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.runtime.worker import Doing
from lash_tasks.stores.sql import tables
from lash_tasks.wiring import WorkerParts
from tests.services import wait_until
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Stage, agent

GRACE = 0.2


def leave_during(stage: Stage, running: str) -> RunVerdict:
    """Drain the worker once its turn is `running`, by the grace of a moment; what it made of its turn."""
    with stage.worker() as parts, ThreadPoolExecutor(1) as beside:
        turn = beside.submit(parts.running.sessions.run, SESSION)
        wait_until(lambda: {one.doing for one in parts.running.worker.engagements()} == {Doing(running)}, 20, running)
        assert drain(parts.running.worker, GRACE)
        return turn.result(20)


def test_a_model_call_is_interrupted_and_made_again_elsewhere(stage: Stage) -> None:
    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            interrupt.wait(20)

    stage.model = model = Model(before=before)
    stage.send("hello")
    assert leave_during(stage, "model_call") is RunVerdict.YIELDED
    assert stage.rows(tables.effects) == []
    (turn,) = stage.turns()
    assert (turn.holder, turn.attempt) == (None, 1)
    assert stage.rings.turns == [turn.turn_id], "the next worker was not rung for"
    stage.run_all()
    assert (stage.last().text, stage.last().attempt) == ("You said: hello", 1)
    assert model.asked.total() == 2


class Rude:
    """A provider that answers an interrupt with an error of its own."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        interrupt.wait(20)
        raise self._error

    def close(self) -> None:
        return


@pytest.mark.parametrize("error", [ConnectionError("shut"), ProviderFailure("shut", code="shut")])
def test_an_error_that_the_interrupt_brought_about_is_not_the_models_answer(stage: Stage, error: Exception) -> None:
    stage.model = Rude(error)
    stage.send("hello")
    assert leave_during(stage, "model_call") is RunVerdict.YIELDED
    assert stage.rows(tables.effects) == []
    stage.model = Model()
    stage.run_all()
    assert (stage.last().text, stage.last().attempt) == ("You said: hello", 1)


def test_of_a_round_what_ended_stays_and_the_rest_runs_again_or_is_unknown(stage: Stage) -> None:
    runs: Counter[str] = Counter()

    def run(name: str, ctx: ToolContext) -> str:
        runs[name] += 1
        if name != "quick" and runs[name] == 1:
            wait_until(lambda: ctx.cancelled, 20, "the drain")
        return f"{name} done"

    @tool
    def quick(ctx: ToolContext) -> str:
        """End at once."""
        return run("quick", ctx)

    @tool
    def slow(ctx: ToolContext) -> str:
        """Take long."""
        return run("slow", ctx)

    @tool(on_crash="never")
    def charge(ctx: ToolContext) -> str:
        """Charge."""
        return run("charge", ctx)

    stage.agents = [agent(quick, slow, charge)]
    stage.model = Model(script({"go": [calls(("quick", ""), ("slow", ""), ("charge", "")), says("done")]}))
    stage.send("go")
    assert leave_during(stage, "tools") is RunVerdict.YIELDED
    stage.run_all()
    assert runs == {"quick": 1, "slow": 2, "charge": 1}
    outcomes = [call.outcome for call in stage.last().tool_calls]
    assert [outcome.value for outcome in outcomes] == ["quick done", "slow done", None]
    assert outcomes[2].failure is not None
    assert outcomes[2].failure.code == ErrorCode.TOOL_ATTEMPT_INTERRUPTED
    assert stage.last().attempt == 1
    stage.assert_usable()


def test_tools_that_end_within_the_grace_are_recorded_and_the_turn_stops_before_the_next_effect(stage: Stage) -> None:
    draining = threading.Event()
    worker: list[WorkerParts] = []

    @tool
    def look() -> str:
        """Look."""
        worker[0].running.worker.begin_drain()
        draining.set()
        return "seen"

    stage.agents = [agent(look)]
    stage.model = model = Model(script({"go": [calls(("look", "")), says("done")]}))
    stage.send("go")
    with stage.worker() as parts:
        worker.append(parts)
        assert parts.running.sessions.run(SESSION) is RunVerdict.YIELDED
    assert model.asked.total() == 1
    assert len(stage.rows(tables.effects)) == 2
    stage.run_all()
    assert (stage.last().text, model.asked.total()) == ("done", 2)


@pytest.mark.parametrize("point", [CrashPoint.AFTER_PERFORM, CrashPoint.AFTER_RECORD, CrashPoint.BEFORE_COMMIT])
def test_a_turn_that_has_its_answer_commits_it_though_the_worker_leaves(stage: Stage, point: CrashPoint) -> None:
    worker: list[WorkerParts] = []

    def reached(at: CrashPoint) -> None:
        if at is point:
            worker[0].running.worker.begin_drain()
            worker[0].running.worker.interrupt_all()

    stage.send("hello")
    with stage.worker(reached) as parts:
        worker.append(parts)
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert (stage.last().ok, stage.last().text) == (True, "You said: hello")
