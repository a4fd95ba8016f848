"""Two versions of one application on one database: a worker leaves alone what it has no code for."""

from __future__ import annotations

import pytest

from lash_tasks import TurnContext, tool
from lash_tasks.domain.agents import AgentSnapshot, OnCrash, ToolSpec
from lash_tasks.machine.turn import MACHINE_VERSION
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.sql import tables
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
    ],
)
def test_code_stands_in_for_another_version_if_its_functions_are_there(
    mine: AgentSnapshot, pinned: AgentSnapshot, missing: tuple[str, ...]
) -> None:
    assert mine.lacks(pinned) == missing
