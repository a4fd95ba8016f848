"""An answer of the agent's output type, through whole turns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, field_validator
from typing_extensions import TypedDict

from lash_tasks import tool
from lash_tasks.clock import FakeClock
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.providers.scripted import last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.stores.sql import tables
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import Death, SimulatedDeath, Stage, agent


class Order(BaseModel):
    order_id: int
    day: date | None = None


@dataclass
class Note:
    text: str


class Pair(TypedDict):
    left: int
    right: int


class Grumpy(BaseModel):
    kind: Literal["grumpy"]

    @field_validator("kind")
    @classmethod
    def check(cls, kind: str) -> str:
        """Raises what pydantic does not expect of a validator."""
        raise KeyError(kind)


@tool
def look() -> str:
    """Look."""
    return "seen"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Order, '{"order_id": 12, "day": "2026-11-23"}', Order(order_id=12, day=date(2026, 11, 23))),
        (Note, '{"text": "hi"}', Note("hi")),
        (Pair, '{"left": 1, "right": 2}', {"left": 1, "right": 2}),
        (list[Order], '[{"order_id": 1}]', [Order(order_id=1)]),
        (Order | Note, '```json\n{"text": "a ``` b"}\n```', Note("a ``` b")),
        (Order | None, "null", None),
    ],
)
def test_an_answer_of_any_type_that_pydantic_knows(stage: Stage, kind: Any, text: str, expected: object) -> None:
    stage.agents = [agent(look, output_type=kind)]
    stage.model = Model(script({"go": [calls(("look", "")), says(text)]}))
    turn = stage.answer("go")
    assert turn.ok
    assert turn.errors == ()
    assert turn.output_as(kind) == expected
    assert "fits this JSON schema" in stage.model.requests[0].system


def stubborn(request: ModelRequest) -> ModelResponse:
    return says("I would rather talk.")


@pytest.mark.raises_code("output_invalid")
def test_a_model_that_will_not_answer_in_type_is_told_twice(stage: Stage) -> None:
    stage.agents = [agent(output_type=Order)]
    stage.model = Model(stubborn)
    turn = stage.answer("go")
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.errors] == [ErrorCode.OUTPUT_INVALID]
    assert len(stage.model.requests) == 3
    assert stage.model.requests[-1].messages[-1].role == "user"
    assert turn.output is None
    with pytest.raises(ValueError, match="did not finish"):
        turn.output_as(Order)


def test_a_correction_costs_a_model_call_of_the_turn(stage: Stage) -> None:
    stage.agents = [agent(output_type=Order, max_iterations=2)]
    stage.model = Model(stubborn)
    turn = stage.answer("go")
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert [issue.code for issue in turn.errors] == [ErrorCode.OUTPUT_INVALID]
    assert len(stage.model.requests) == 2


def test_a_validator_that_raises_is_told_to_the_model_and_ends_nothing_else(stage: Stage) -> None:
    stage.agents = [agent(output_type=Grumpy, max_iterations=1)]
    stage.model = Model(lambda request: says('{"kind": "grumpy"}'))
    assert "raised KeyError" in stage.answer("go").errors[0].message


def test_an_answer_is_judged_once(stage: Stage) -> None:
    """A worker dies after it has recorded the verdict; its successor has code that would judge otherwise."""
    stage.agents = [agent(output_type=Order)]
    stage.model = Model(lambda request: says('{"order_id": 12}'))
    stage.send("go")
    recorded = lambda: any(":output_check:" in row["replay_key"] for row in stage.rows(tables.effects))  # noqa: E731
    assert stage.run(Death(CrashPoint.AFTER_RECORD, when=recorded)) is None
    stage.agents = [agent(output_type=Note)]
    stage.run_all()
    assert stage.last().output == {"order_id": 12}


def test_input_that_joins_is_answered_in_type_as_well(stage: Stage) -> None:
    stage.agents = [agent(output_type=int)]
    stage.model = Model(
        lambda request: says({"go": "1", "more": "2"}.get(last_user_text(request), "no")),
        before=lambda call, _: last_user_text(call.request) == "go" and stage.inject("more"),
    )
    turn = stage.answer("go")
    assert turn.output == 2
    assert [part.text for message in stage.messages() for part in message.parts if part.type == "text"] == [
        "go",
        "1",
        "more",
        "2",
    ]


def test_an_answer_that_kills_whoever_looks_at_it_is_given_up(stage: Stage) -> None:
    def deadly(value: int) -> int:
        raise SimulatedDeath

    stage.agents = [agent(output_type=Annotated[int, AfterValidator(deadly)])]
    stage.model = Model(lambda request: says("1"))
    stage.send("go")
    stage.run_all()
    turn = stage.last()
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.errors] == [ErrorCode.ATTEMPTS_EXHAUSTED]
    assert len(stage.model.requests) == 1


def test_an_answer_that_is_there_is_judged_also_when_the_time_is_up(stage: Stage) -> None:
    clock = FakeClock()
    stage.clock, stage.agents = clock, [agent(output_type=int, max_turn_seconds=60)]
    stage.model = Model(lambda request: says("1"), before=lambda *_: clock.advance(61))
    assert stage.answer("go").output == 1


def test_a_worker_without_the_code_cancels_a_turn_whose_answer_it_cannot_judge(stage: Stage) -> None:
    stage.agents = [agent(output_type=int)]
    stage.model = Model(lambda request: says("1"))
    stage.send("go")
    answered = lambda: any(":llm_call:" in row["replay_key"] for row in stage.rows(tables.effects))  # noqa: E731
    assert stage.run(Death(CrashPoint.AFTER_RECORD, when=answered)) is None
    stage.cancel()
    stage.agents = [agent()]
    stage.run_all()
    assert stage.last().outcome == stopped(StopKind.CANCELLED)
