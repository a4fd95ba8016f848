"""A turn that asks for something else than it has on record is ended, says where it differs, and repeats nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lash_tasks import tool
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import AssembledTurn, StopKind, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.stores.sql import tables
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import Death, Stage, agent


def edit(stage: Stage, key: str, change: Callable[[Any], object]) -> None:
    """Change the recorded request of the one effect whose replay key contains `key`."""
    (row,) = [row for row in stage.rows(tables.effects) if key in row["replay_key"]]
    envelope = json.loads(row["envelope"])
    change(envelope)
    stage.execute(
        "UPDATE lash_effects SET envelope = :envelope WHERE replay_key = :key",
        envelope=json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode(),
        key=row["replay_key"],
    )


def died_before_commit(stage: Stage) -> list[str]:
    """A turn with a round of two calls and input that joined in it, all recorded; the tools that ran."""
    ran: list[str] = []

    @tool
    def look(at: str) -> str:
        """Look."""
        ran.append(at)
        return f"saw {at}"

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            stage.inject("and")

    round_ = calls(("look", '{"at": "a"}'), ("look", '{"at": "b"}'))
    model = Model(script({"go": [round_]}), before=before)
    stage.agents, stage.model = [agent(look, instructions=lambda turn: "Answer.")], model
    stage.send("go")
    assert stage.run(Death(CrashPoint.BEFORE_COMMIT)) is None
    assert (model.asked.total(), sorted(ran)) == (2, ["a", "b"])
    return ran


def assert_ended(stage: Stage, ran: list[str], *differences: str) -> AssembledTurn:
    """The turn was ended as one that does not match, with these differences; nothing was done twice."""
    stage.run_all()
    turn = stage.last()
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    (issue,) = turn.errors
    assert issue.code == ErrorCode.EFFECT_REPLAY_MISMATCH
    for difference in differences:
        assert difference in issue.message
    assert isinstance(stage.model, Model)
    assert (stage.model.asked.total(), sorted(ran)) == (2, ["a", "b"])
    assert set(stage.states().values()) == {BatchState.CONSUMED}, "input that had joined the turn is left over"
    stage.assert_usable()
    return turn


@pytest.mark.raises_code("effect_replay_mismatch")
def test_another_model(stage: Stage) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":0:llm_call:", lambda envelope: envelope["request"].update(model="test:older"))
    turn = assert_ended(stage, ran, '$.request.model: "test:older" -> "test:test"')
    assert turn.tool_calls == ()


def test_another_prompt(stage: Stage) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":1:llm_call:", lambda envelope: envelope["request"].update(system="0" * 16))
    turn = assert_ended(stage, ran, '$.request.system: "0000000000000000" -> ')
    assert [call.outcome.value for call in turn.tool_calls] == ["saw a", "saw b"], "what is complete was lost"


def test_another_agent(stage: Stage) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":sync_execution_environment:", lambda envelope: envelope["request"].update(agent="older"))
    assert_ended(stage, ran, '$.request.agent: "older" -> "support"')


def test_other_arguments(stage: Stage) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":child:0:", lambda envelope: envelope["request"].update(arguments={"at": "c", "more": True}))
    turn = assert_ended(stage, ran, '$.request.arguments.at: "c" -> "a"', "$.request.arguments.more: true -> (absent)")
    # The call that still matches keeps its recorded result, wherever it stands in the round.
    assert [call.outcome.status for call in turn.tool_calls] == [ToolStatus.CANCELLED, ToolStatus.SUCCESS]


def test_another_order_of_calls(stage: Stage) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":child:0:", lambda envelope: envelope["request"].update(arguments={"at": "b"}))
    edit(stage, ":child:1:", lambda envelope: envelope["request"].update(arguments={"at": "a"}))
    assert_ended(stage, ran, '$.request.arguments.at: "b" -> "a"')


def test_another_kind_of_checkpoint(stage: Stage) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":checkpoint:", lambda envelope: envelope["request"].update(checkpoint="before_completion"))
    turn = assert_ended(stage, ran, '$.request.checkpoint: "before_completion" -> "after_work"')
    assert [call.outcome.value for call in turn.tool_calls] == ["saw a", "saw b"]


@pytest.mark.parametrize("missing", ["request", "kind"])
def test_a_request_that_lacks_a_part(stage: Stage, missing: str) -> None:
    ran = died_before_commit(stage)
    edit(stage, ":0:llm_call:", lambda envelope: envelope.pop(missing))
    assert_ended(stage, ran, f"$.{missing}: (absent) -> ")


def test_a_turn_keeps_the_agent_that_it_began_with_and_the_next_one_has_the_new(stage: Stage) -> None:
    """A deployment between death and resume is no mismatch: the turn is pinned to its snapshot."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    @tool(name="look")
    def look_closer(closely: bool = True) -> str:
        """Look closer."""
        return "seen more"

    stage.model = model = Model(script({"go": [calls(("look", "")), says("done")]}))
    stage.agents = [agent(look, instructions="Old.")]
    stage.send("go")
    assert stage.run(Death(CrashPoint.AFTER_RECORD)) is None
    stage.agents = [agent(look_closer, instructions="New.", model="test:newer", max_iterations=1)]
    stage.run_all()
    assert (stage.last().text, stage.last().errors) == ("done", ())
    assert [(request.system, request.tools[0].description) for request in model.requests] == [("Old.", "Look.")] * 2
    assert [issue.code for issue in stage.answer("next").errors] == ["model_not_found"]
    assert model.requests[-1].system == "New."
