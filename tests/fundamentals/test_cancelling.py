"""A cancelled turn ends at once, and the session stays usable: no tool call is left without an answer."""

from __future__ import annotations

from lash_tasks.domain.messages import ToolResultPart, ToolStatus, text_of, unanswered_calls
from lash_tasks.domain.turns import CALL_WITHOUT_RESULT, StopKind, ToolOutcome, finished, stopped
from lash_tasks.machine.effects import CallModel, CheckpointPassed, Finish, ModelReturned, RunTools, TurnHalted
from lash_tasks.machine.requests import ModelOutcome, ModelRequest, ModelResponse
from lash_tasks.machine.turn import advance
from tests.fundamentals.small_runtime import SmallRuntime, call, calls, says, start

CANCEL = TurnHalted(StopKind.CANCELLED)


def test_a_turn_cancelled_before_the_answer_keeps_the_question() -> None:
    """It is committed like any other turn, with what is complete. Of the answer under way, nothing is kept."""
    turn, order = start("Hello")
    assert isinstance(order, CallModel)

    turn, order = advance(turn, CANCEL)

    assert isinstance(order, Finish)
    assert turn.outcome == stopped(StopKind.CANCELLED)
    assert [text_of(message) for message in turn.added] == ["Hello"]


def test_a_turn_cancelled_among_its_tools_leaves_no_dangling_call() -> None:
    """Results that are recorded stay. A call that has none is answered as cancelled."""
    turn, _ = start("Charge me.")
    both = calls(call("a", "lookup_order", "{}"), call("b", "charge_card", "{}"))
    turn, order = advance(turn, ModelReturned(ModelOutcome(both)))
    assert isinstance(order, RunTools)

    charged = ToolOutcome(ToolStatus.SUCCESS, "charged")
    turn, _ = advance(turn, TurnHalted(StopKind.CANCELLED, outcomes=((1, charged),)))

    assert unanswered_calls(turn.added) == ()
    assert turn.added[-1].parts == (
        ToolResultPart(
            call("a", "", "").call_id,
            "lookup_order",
            "[Tool execution cancelled]\n" + CALL_WITHOUT_RESULT,
            ToolStatus.CANCELLED,
        ),
        ToolResultPart(call("b", "", "").call_id, "charge_card", "charged", ToolStatus.SUCCESS),
    )


def test_the_next_turn_goes_on_from_a_cancelled_one() -> None:
    """Its question has the cancelled turn in it, and every call in it has its result."""
    turn, _ = start("Charge me.")
    turn, _ = advance(turn, ModelReturned(ModelOutcome(calls(call("a", "charge_card", "{}")))))
    cancelled, _ = advance(turn, CANCEL)
    asked: list[ModelRequest] = []

    def remember(request: ModelRequest) -> ModelResponse:
        asked.append(request)
        return says("Nothing was charged.")

    after = SmallRuntime(remember).run(start("Did you?", history=cancelled.added, turn_index=2))

    assert after.outcome == finished("Nothing was charged.")
    called, answered = asked[0].messages[1:3]
    assert [part.type for part in (*called.parts, *answered.parts)] == ["tool_call", "tool_result"]


def test_a_cancel_that_comes_after_the_end_changes_nothing() -> None:
    """The answer was there first."""
    turn, _ = start("Hello")
    turn, _ = advance(turn, ModelReturned(ModelOutcome(says("Hi."))))
    turn, _ = advance(turn, CheckpointPassed())

    assert advance(turn, CANCEL) == (turn, Finish())
    assert turn.outcome == finished("Hi.")
