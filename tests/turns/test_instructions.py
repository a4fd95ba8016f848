"""Instructions that a function renders: once a turn, whatever dies, and what is recorded stands."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import TurnContext
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.runtime.crash_points import CrashPoint
from tests.turns.models import Model
from tests.turns.stage import AGENT, SESSION, Death, Stage, agent


def rendering(stage: Stage) -> list[TurnContext]:
    """Let the stage's agent render its instructions; for which turns it did."""
    rendered: list[TurnContext] = []

    def render(turn: TurnContext) -> str:
        rendered.append(turn)
        return f"Rendering {len(rendered)}."

    stage.agents, stage.model = [agent(instructions=render)], Model()
    return rendered


def prompts(stage: Stage) -> list[str]:
    assert isinstance(stage.model, Model)
    return [request.system for request in stage.model.requests]


def test_a_function_renders_once_a_turn_and_learns_which(stage: Stage) -> None:
    rendered = rendering(stage)
    stage.answer("one", context={"user_id": 42})
    stage.answer("two")
    assert prompts(stage) == ["Rendering 1.", "Rendering 2."]
    first, second = rendered
    assert (first.session_id, first.agent, first.turn_index, first.context) == (SESSION, AGENT, 1, {"user_id": 42})
    assert (second.turn_index, second.context) == (2, None)
    turns = stage.turns()
    assert [context.turn_id for context in rendered] == [turn.turn_id for turn in turns]
    assert [context.admitted_at_ms for context in rendered] == [turn.admitted_at_ms for turn in turns]


@pytest.mark.parametrize(
    ("point", "again"),
    [(CrashPoint.BEFORE_EFFECT, 0), (CrashPoint.AFTER_PERFORM, 1), (CrashPoint.AFTER_RECORD, 0)],
)
def test_what_is_rendered_is_recorded_and_a_death_changes_it_only_before_that(
    stage: Stage, point: CrashPoint, again: int
) -> None:
    rendered = rendering(stage)
    stage.send("hello")
    assert stage.run(Death(point)) is None
    before = list(rendered)
    stage.run_all()
    assert len(rendered) == 1 + again
    assert prompts(stage) == [f"Rendering {1 + again}."]
    assert all(turn.admitted_at_ms == rendered[0].admitted_at_ms for turn in [*before, *rendered])


def test_the_prompt_of_a_resumed_turn_is_the_recorded_one(stage: Stage) -> None:
    rendering(stage)
    stage.send("hello")

    # The first worker dies inside the model call, the second asks again, with the same instructions.
    assert stage.run(Death(CrashPoint.AFTER_PERFORM, when=lambda: prompts(stage))) is None
    stage.run_all()
    assert prompts(stage) == ["Rendering 1.", "Rendering 1."]


def test_a_function_that_raises_stops_the_turn_without_its_message_and_the_session_goes_on(stage: Stage) -> None:
    bad = True

    def render(turn: TurnContext) -> str:
        if bad:
            raise LookupError("secret detail")
        return "Answer."

    stage.agents = [agent(instructions=render)]
    turn = stage.answer("hello")
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    (issue,) = turn.errors
    assert issue.code == ErrorCode.INSTRUCTIONS_FAILED
    assert "LookupError" in issue.message
    assert "secret detail" not in str(turn)
    assert prompts(stage) == []
    bad = False
    stage.assert_usable()


@pytest.mark.raises_code("instructions_failed")
def test_a_function_that_returns_no_text_stops_the_turn(stage: Stage) -> None:
    untyped: Any = lambda _turn: b"bytes"  # noqa: E731 - as short as users write it
    stage.agents = [agent(instructions=untyped)]
    assert [issue.code for issue in stage.answer("hello").errors] == [ErrorCode.INSTRUCTIONS_FAILED]
