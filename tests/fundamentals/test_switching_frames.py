"""A tool may end its turn for another frame: the work goes on there, with nothing of what was said before."""

from __future__ import annotations

import pytest

from lash_tasks.domain.frames import FrameSwitch, read_seeds, seed_nodes
from lash_tasks.domain.sessions import transcript
from lash_tasks.domain.turns import AgentFrameSwitch
from lash_tasks.machine.assembly import assemble
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SmallRuntime, call, calls, says, start


def clears_its_desk(request: ModelRequest) -> ModelResponse:
    return calls(call("a", "lookup_order", "{}"), call("b", "charge_card", "{}"))


SWITCH = FrameSwitch("checkout", "Charge the card.", read_seeds(["Order 12, 40 euro."]))
TOOLS = {"lookup_order": lambda: "shipped", "charge_card": lambda: SWITCH}


@pytest.mark.shows("F1")
def test_the_turn_ends_with_the_switch() -> None:
    """Every call of the round is answered in the history, and the model is not asked again."""
    turn = SmallRuntime(clears_its_desk, TOOLS).run(start("Order 12?"))
    result = assemble(turn, None, attempt=1)

    assert result.turn.outcome == AgentFrameSwitch("checkout", "Charge the card.")
    assert not result.turn.ok
    assert [record.outcome.value for record in result.turn.tool_calls] == ["shipped", None]


def test_the_switch_is_remembered() -> None:
    """A resume neither asks the model nor calls the tool, and switches to the same frame."""
    first = SmallRuntime(clears_its_desk, TOOLS)
    before = first.run(start("Order 12?"))
    resumed = SmallRuntime(lambda request: says("never asked"), {}, first.journal).run(start("Order 12?"))

    assert resumed.outcome == before.outcome
    assert assemble(resumed, None, attempt=2).switch == SWITCH


def test_the_next_turn_sees_the_seeds_and_the_task() -> None:
    """What was said in the frame before is kept for whoever reads the session, and out of the model's sight."""
    seen: list[ModelRequest] = []

    def model(request: ModelRequest) -> ModelResponse:
        seen.append(request)
        return says("Charged.")

    seeds = tuple(transcript(seed_nodes(SWITCH.seeds, SWITCH.frame_id, turn_index=1, first=3, parent=None)))
    turn = SmallRuntime(model).run(start(SWITCH.task, history=seeds, turn_index=2))

    assert [part.text for message in seen[0].messages for part in message.parts if part.type == "text"] == [
        "Order 12, 40 euro.",
        "Charge the card.",
    ]
    assert assemble(turn, None, attempt=1).turn.text == "Charged."
