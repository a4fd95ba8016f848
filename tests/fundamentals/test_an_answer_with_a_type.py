"""An answer may have a type: the model is told the schema, and an answer that does not fit goes back to it."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from lash_tasks.domain.messages import text_of
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.machine.assembly import assemble
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.tools.agents import Agent
from tests.fundamentals.small_runtime import SUPPORT, SmallRuntime, says, start


class Order(BaseModel):
    order_id: int
    state: str


AGENT = Agent("support", "scripted:small", output_type=Order)
WITH_TYPE = replace(SUPPORT, output_schema=AGENT.snapshot().output_schema)
FITS = '```json\n{"order_id": 12, "state": "shipped"}\n```'


class Model:
    """Gives its answers one after another and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[ModelRequest] = []

    def __call__(self, request: ModelRequest) -> ModelResponse:
        self.requests.append(request)
        return says(self.answers.pop(0))


def test_an_answer_is_read_as_its_type() -> None:
    """It may be fenced, as models like to write JSON. The schema stands at the end of the instructions."""
    model = Model(FITS)
    turn = SmallRuntime(model, check=AGENT.check_output).run(start("Order 12?", agent=WITH_TYPE))

    result = assemble(turn, None, attempt=1).turn
    assert result.output == {"order_id": 12, "state": "shipped"}
    assert result.output_as(Order) == Order(order_id=12, state="shipped")
    assert model.requests[0].system.startswith("Answer briefly.\n\n")
    assert '"required":["order_id","state"]' in model.requests[0].system


def test_an_answer_that_does_not_fit_goes_back_to_the_model() -> None:
    model = Model("It is shipped.", '{"order_id": "twelve"}', FITS)
    turn = SmallRuntime(model, check=AGENT.check_output).run(start("Order 12?", agent=WITH_TYPE))

    assert turn.output == {"order_id": 12, "state": "shipped"}
    told = [text_of(message) for message in turn.added if message.origin is not None]
    assert "is not valid JSON" in told[0]
    assert "$.order_id: Input should be a valid integer" in told[1]
    assert "$.state: Field required" in told[1]


def test_after_two_corrections_the_turn_stops_and_says_so() -> None:
    model = Model(*["No."] * 4)
    turn = SmallRuntime(model, check=AGENT.check_output).run(start("Order 12?", agent=WITH_TYPE))

    assert len(model.requests) == 3
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.issues] == ["output_invalid"]
