"""A round in which a tool switches the frame is the last of its turn."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.domain.frames import MAX_FRAME_SWITCHES, FrameSwitch, follow_up_turn_id, read_seeds
from lash_tasks.domain.ids import TurnId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import TextPart, ToolResultPart, unanswered_calls
from lash_tasks.domain.turns import AgentFrameSwitch, StopKind, ToolOutcome, stopped
from lash_tasks.machine.assembly import assemble
from lash_tasks.machine.effects import Finish, ToolsReturned
from lash_tasks.machine.projection import NOTHING_SAID
from lash_tasks.machine.state import Step, Turn
from lash_tasks.machine.turn import begin
from tests.machine.turns import AGENT, CANCELLED, answers, call, intent, play, start, success

PLAN = FrameSwitch("plan", "plan it", read_seeds(["so far"]))


def switching(switch: FrameSwitch = PLAN) -> ToolOutcome:
    return replace(success({"switched_to": switch.frame_id}), control=switch)


def results(turn: Turn) -> list[str]:
    return [part.call_id for message in turn.added for part in message.parts if isinstance(part, ToolResultPart)]


def test_the_turn_ends_with_the_switch_and_every_call_of_the_round_answered() -> None:
    round_ = answers("Let me see.", call("a"), call("b"), call("c"))
    later = switching(FrameSwitch("other", "something else"))
    turn, orders = play(start(), round_, ToolsReturned((success(), switching(), later)))

    assert isinstance(orders[-1], Finish)
    assert turn.outcome == AgentFrameSwitch("plan", "plan it")
    assert results(turn) == ["a", "b", "c"]
    assert unanswered_calls(turn.added) == ()
    result = assemble(turn, None, attempt=1)
    assert (result.switch, result.turn.outcome, result.turn.ok) == (PLAN, turn.outcome, False)
    assert result.turn.errors == ()


def test_a_switch_in_the_last_round_that_the_limits_allow_counts() -> None:
    agent = replace(AGENT, max_iterations=1)
    turn, _ = play(start(agent=agent), answers(call("a")), ToolsReturned((switching(),)))
    assert turn.outcome == AgentFrameSwitch("plan", "plan it")


def test_a_turn_that_is_cancelled_in_the_round_does_not_switch() -> None:
    halted = replace(CANCELLED, outcomes=((0, switching()),))
    turn, _ = play(start(), answers(call("a"), call("b")), halted)

    assert turn.outcome == stopped(StopKind.CANCELLED)
    assert assemble(turn, None, attempt=1).switch is None


def begun(turn_id: TurnId) -> Step:
    pinned = replace(intent(), turn_id=turn_id)
    return begin(pinned, AGENT, NOTHING_SAID, [QueuedInput("support", (TextPart("plan it"),))])


def test_the_33rd_switch_of_a_run_stops() -> None:
    turn_id = TurnId("queue:12ab")
    for _ in range(MAX_FRAME_SWITCHES):
        turn, _ = play(begun(turn_id), answers(call("a")), ToolsReturned((switching(),)))
        assert turn.outcome == AgentFrameSwitch("plan", "plan it")
        turn_id = follow_up_turn_id(turn_id)

    turn, _ = play(begun(turn_id), answers(call("a")), ToolsReturned((switching(),)))
    assert turn_id == "queue:12ab:agent-frame:32"
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert [issue.code for issue in turn.issues] == ["max_frame_switches"]
    assert results(turn) == ["a"]
