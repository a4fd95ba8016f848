"""A turn ends at its limits with what it has, and says which limit it was."""

from __future__ import annotations

import threading

import pytest

from lash_tasks import tool
from lash_tasks.clock import FakeClock
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import ErrorCode
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import Stage, agent


@tool
def look() -> str:
    """Look."""
    return "seen"


@pytest.mark.raises_code("max_turns")
def test_a_model_that_only_calls_tools_is_asked_max_iterations_times(stage: Stage) -> None:
    stage.agents = [agent(look, max_iterations=2)]
    stage.model = Model(script({"go": [calls(("look", ""))] * 9}))
    turn = stage.answer("go")
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert [issue.code for issue in turn.errors] == [ErrorCode.MAX_TURNS]
    assert stage.model.asked.total() == 2
    assert [call.outcome.value for call in turn.tool_calls] == ["seen", "seen"]
    assert "Turn limit reached (2)" in str(stage.transcript()[-1])
    stage.assert_usable()


@pytest.mark.raises_code("turn_time_exceeded")
def test_after_max_turn_seconds_no_call_is_made_any_more(stage: Stage) -> None:
    clock = FakeClock()
    stage.clock, stage.agents = clock, [agent(look, max_turn_seconds=60)]
    stage.model = Model(script({"go": [calls(("look", ""))]}), before=lambda *_: clock.advance(61))
    turn = stage.answer("go")
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.errors] == [ErrorCode.TURN_TIME_EXCEEDED]
    (call,) = turn.tool_calls
    assert call.outcome.status is ToolStatus.CANCELLED
    stage.assert_usable()


def test_an_answer_that_comes_after_the_time_stands(stage: Stage) -> None:
    clock = FakeClock()
    stage.clock, stage.agents = clock, [agent(max_turn_seconds=60)]
    stage.model = Model(before=lambda *_: clock.advance(61))
    assert stage.answer("hello").text == "You said: hello"


def test_a_model_call_gets_the_time_that_is_left(stage: Stage) -> None:
    clock, given = FakeClock(), []
    stage.clock, stage.agents = clock, [agent(max_turn_seconds=60)]
    stage.model = Model(before=lambda call, _: given.append(call.timeout_seconds))
    stage.answer("hello")
    assert given == [60]


def test_a_tool_without_a_limit_of_its_own_ends_with_the_turn(stage: Stage) -> None:
    released = threading.Event()

    @tool
    def sleep() -> str:
        """Take long."""
        released.wait(20)
        return "rested"

    stage.agents = [agent(sleep, max_turn_seconds=1)]
    stage.model = Model(script({"go": [calls(("sleep", "")), says("done")]}))
    try:
        turn = stage.answer("go")
    finally:
        released.set()
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.errors] == [ErrorCode.TURN_TIME_EXCEEDED]
    failure = turn.tool_calls[0].outcome.failure
    assert failure is not None
    assert failure.code == ErrorCode.TOOL_TIMEOUT
    stage.assert_usable()
