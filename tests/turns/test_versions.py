"""Two versions of one application on one database: a worker leaves alone what it has no code for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from lash_tasks import Agent, TurnContext, tool
from lash_tasks.clock import FakeClock
from lash_tasks.domain.agents import AgentSnapshot, OnCrash, ToolSpec
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.machine.turn import MACHINE_VERSION
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.maintenance import RESCUE_AGAIN_MS, RING_AGAIN_MS
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.sql import tables
from lash_tasks.wiring import WorkerParts
from tests.services import wait_until
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, DieAt, Stage, agent


@tool
def old(text: str) -> str:
    """What the first version has."""
    return f"old {text}"


@tool
def new(text: str) -> str:
    """What the second version has in its place."""
    return f"new {text}"


def instructions(turn: TurnContext) -> str:
    return f"Answer turn {turn.turn_index}."


def die_in_the_tool_round(stage: Stage) -> None:
    """A worker of the first version dies between the model's answer and the call of the tool."""
    stage.agents = [agent(old)]
    stage.model = Model(script({"hello": [calls(("old", '{"text": "x"}')), says("done")]}))
    stage.send("hello")
    assert stage.run(DieAt(CrashPoint.BEFORE_EFFECT, 2)) is None


def test_a_turn_whose_tool_is_gone_waits_for_a_worker_that_has_it(stage: Stage) -> None:
    die_in_the_tool_round(stage)
    before = stage.rows(tables.turns), stage.rows(tables.fences)

    stage.agents = [agent(new)]
    with stage.worker() as parts:
        for _ in range(3):
            assert parts.running.sessions.run(SESSION) is RunVerdict.NOTHING
        assert parts.running.maintenance.abandoned() == []
        assert parts.running.maintenance.rescue() == 0
    assert (stage.rows(tables.turns), stage.rows(tables.fences)) == before, "not opened, not counted"

    stage.agents = [agent(old)]
    stage.run_all()
    turn = stage.last()
    assert (turn.text, turn.attempt) == ("done", 1)
    assert [call.outcome.value for call in turn.tool_calls] == ["old x"]


def test_a_turn_of_another_prompt_goes_on_with_the_prompt_that_it_began_with(stage: Stage) -> None:
    die_in_the_tool_round(stage)

    stage.agents = [agent(new, old, instructions="Be brief.")]
    with stage.worker() as parts:
        assert [one.session_id for one in parts.running.maintenance.abandoned()] == [SESSION]
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert stage.last().text == "done"
    assert stage.answer("and now").text == "You said: and now"
    first, second = {row["agent_ref"] for row in stage.rows(tables.turns)}
    assert first != second, "a new turn has the version of whoever takes it"


def test_a_turn_whose_tool_is_gone_can_be_cancelled_by_any_worker(stage: Stage) -> None:
    die_in_the_tool_round(stage)
    stage.cancel()

    stage.agents = [agent(new, name="other")]
    stage.run_all()
    turn = stage.last()
    assert not turn.ok
    assert [row["outcome"] for row in stage.rows(tables.turns)] == ["cancelled"]
    assert turn.tool_calls[0].outcome.status == "cancelled"


def test_a_turn_of_another_machine_is_held(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    die_in_the_tool_round(stage)
    with monkeypatch.context() as patch:
        patch.setattr("lash_tasks.runtime.repertoire.MACHINE_VERSION", MACHINE_VERSION + 1)
        assert stage.run() is RunVerdict.NOTHING
    stage.run_all()
    assert stage.last().attempt == 1


# ---------------------------------------------------------------- what counts as having the code


def snapshot(*tools: ToolSpec, instructions: str | None = "", typed: bool = False) -> AgentSnapshot:
    return AgentSnapshot("support", "test:model", instructions, tools, output_schema={} if typed else None)


def with_plugin(*hooks: Hook, version: str = "1") -> AgentSnapshot:
    return replace(snapshot(), plugins=(PluginSpec("guard", version, hooks or (Hook.BEFORE_TURN,)),))


LOOKUP = ToolSpec("lookup", "Look something up.", {"type": "object"})


@pytest.mark.parametrize(
    ("mine", "pinned", "missing"),
    [
        (snapshot(LOOKUP), snapshot(), ()),
        (snapshot(LOOKUP), snapshot(ToolSpec("lookup", "Search.", {"type": "object", "required": ["q"]})), ()),
        (snapshot(), snapshot(LOOKUP), ("the tool 'lookup'",)),
        (snapshot(LOOKUP), snapshot(ToolSpec("lookup", "", {}, on_crash=OnCrash.NEVER)), ("the tool 'lookup'",)),
        (snapshot(instructions=None), snapshot(), ()),
        (snapshot(), snapshot(instructions=None), ("a function for its instructions",)),
        (snapshot(), snapshot(typed=True), ("an output type",)),
        (snapshot(typed=True), snapshot(), ()),
        (with_plugin(), snapshot(), ()),
        (with_plugin(version="2"), with_plugin(), ()),
        (snapshot(), with_plugin(), ("the hook before_turn of the plugin 'guard'",)),
        (with_plugin(Hook.AFTER_TURN), with_plugin(), ("the hook before_turn of the plugin 'guard'",)),
    ],
)
def test_code_stands_in_for_another_version_if_its_functions_are_there(
    mine: AgentSnapshot, pinned: AgentSnapshot, missing: tuple[str, ...]
) -> None:
    assert mine.lacks(pinned) == missing


# ---------------------------------------------------------------- doorbells that go to the wrong worker


LEASE_TTL = 6.0


@pytest.fixture
def clock() -> FakeClock:
    """What leases, slots and the database go by, while workers and their tools live in real time."""
    return FakeClock()


@pytest.fixture
def mixed(settings: Settings, clock: FakeClock) -> Iterator[Stage]:
    """A stage for workers of several versions that share leases."""
    settings = settings.model_copy(update={"lease_ttl": LEASE_TTL})
    with Stage(settings=settings, now_ms=clock.now_ms, shared=open_memory_stores(clock=clock)) as stage:
        yield stage


@contextmanager
def side_by_side(stage: Stage, right: Agent, wrong: Agent) -> Iterator[tuple[WorkerParts, WorkerParts]]:
    stage.agents = [right]
    with stage.worker() as has_code:
        stage.agents = [wrong]
        with stage.worker() as has_none:
            stage.beat(has_none)
            yield has_code, has_none


def passes_answered_by(wrong: WorkerParts, stage: Stage, clock: FakeClock, look: Callable[[], int]) -> int:
    """Passes, every ring of which the wrong worker answers; how many it takes until the session is at rest."""
    for number in range(1, 10):
        del stage.rings.sessions[:]
        look()
        for session_id in stage.rings.sessions:
            assert wrong.running.sessions.run(session_id) is RunVerdict.NOTHING
        if not stage.rings.sessions:
            wait_until(lambda: {row["state"] for row in stage.rows(tables.batches)} == {"consumed"}, 10, "an answer")
            return number
        clock.advance(max(RESCUE_AGAIN_MS, RING_AGAIN_MS) / 1000 + 0.1)
        stage.beat(wrong)
    raise AssertionError("every ring was in vain")


def test_a_held_turn_is_resumed_though_every_doorbell_goes_to_a_worker_without_its_code(
    mixed: Stage, clock: FakeClock
) -> None:
    """A worker died in a deployment, and its turn's tool was in the old version only. For a minute the rescue of the
    old version's worker rang every two seconds, and the new version's worker happened to take each of the rings."""
    die_in_the_tool_round(mixed)
    clock.advance(LEASE_TTL)
    with side_by_side(mixed, agent(old), agent(new)) as (right, wrong):
        assert passes_answered_by(wrong, mixed, clock, right.running.maintenance.rescue) == 2
        right.running.stop()
    assert (mixed.last().text, mixed.last().attempt) == ("done", 1)


def test_a_snapshot_that_only_a_later_release_can_read_keeps_no_other_turn_from_its_rescue(
    stage: Stage,
) -> None:
    """All abandoned turns were judged in one step, and what one of them was pinned to could not be read."""
    stage.agents = [agent(instructions="old")]
    stage.send("hello")
    assert stage.run(DieAt(CrashPoint.AFTER_OPEN)) is None
    (snapshot,) = stage.rows(tables.agents)
    later = bytes(snapshot["snapshot"]).replace(b'"on_crash":"retry"', b'"on_crash":"tomorrow"')
    later = later.replace(b'"instructions":"old"', b'"instructions":{"of":"tomorrow"}')
    assert stage.execute("UPDATE lash_agents SET snapshot = :later", later=later) == 1
    stage.agents = [agent(instructions="new")]
    stage.send("hello", session_id="other")
    with stage.worker(DieAt(CrashPoint.AFTER_OPEN)) as parts:
        parts.running.sessions.run(SessionId("other"))
    stage.rings.sessions.clear()
    with stage.worker() as parts:
        assert parts.running.maintenance.rescue() == 1
        assert parts.running.sessions.run(SESSION) is RunVerdict.NOTHING
        assert stage.rings.sessions == ["other"]
        assert [one.name for one in parts.stores.fleet.agents()] == ["support"]


def test_input_is_served_though_every_doorbell_goes_to_a_worker_without_its_agent(
    mixed: Stage, clock: FakeClock
) -> None:
    mixed.send("hello")
    with side_by_side(mixed, agent(), agent(name="other")) as (right, wrong):
        sweep = partial(right.running.maintenance.sweep, waiting_ms=0)
        assert passes_answered_by(wrong, mixed, clock, sweep) == 2
        right.running.stop()
    assert mixed.last().text == "You said: hello"


def test_workers_of_one_version_leave_what_is_found_again_to_their_tasks(mixed: Stage, clock: FakeClock) -> None:
    """It may only be waiting in a long queue."""
    mixed.send("hello")
    with mixed.worker() as parts:
        for _ in range(3):
            assert parts.running.maintenance.sweep(waiting_ms=0) == 1
            clock.advance(RING_AGAIN_MS / 1000 + 0.1)
    assert len(mixed.rings.sessions) == 1 + 3


def test_who_comes_while_a_worker_without_the_code_looks_is_rung_for_again(mixed: Stage) -> None:
    """The worker with the code was turned away by the lease, and the knock that it left was read by one that found
    nothing to do for itself."""
    mixed.send("hello")
    del mixed.rings.sessions[:]
    right: list[WorkerParts] = []

    def meanwhile(point: CrashPoint) -> None:
        if point is CrashPoint.AFTER_LEASE:
            assert right[0].running.sessions.run(SESSION) is RunVerdict.BUSY

    with mixed.worker() as parts:
        right.append(parts)
        mixed.agents = [agent(name="other")]
        with mixed.worker(meanwhile) as wrong:
            assert wrong.running.sessions.run(SESSION) is RunVerdict.NOTHING
            assert mixed.rings.sessions == [SESSION]
