"""Checkpoints: where input joins a running turn, and what that does to its end."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import Message, Origin, TextPart, ToolResultPart
from lash_tasks.domain.turns import StopKind, finished, stopped
from lash_tasks.machine.effects import CallModel, CheckpointKind, Finish, TakeCheckpoint
from tests.machine.turns import AGENT, NOTHING, answers, call, joins, last, parts_of, play, returned, start


def test_nothing_that_joins_lets_the_turn_end() -> None:
    turn, effects = play(start(), answers("Hi."), NOTHING)

    assert isinstance(effects[-1], Finish)
    assert turn.outcome == finished("Hi.")


def test_the_outcome_waits_for_the_checkpoint() -> None:
    turn, _ = play(start(), answers("Hi."))

    assert turn.outcome is None
    assert turn.held == finished("Hi.")


def test_an_answer_and_the_input_behind_it_are_in_the_next_request() -> None:
    order = last(CallModel, start("Hello"), answers("Hi."), joins("follow up"))

    assert [message.parts for message in order.request.messages] == [
        (TextPart("Hello"),),
        (TextPart("Hi."),),
        (TextPart("follow up"),),
    ]
    assert order.iteration == 1


def test_input_behind_tool_results_is_in_the_next_request() -> None:
    order = last(CallModel, start("Hello"), answers(call("x")), returned("ok"), joins("follow up"))

    assert [message.parts for message in order.request.messages[2:]] == [
        (ToolResultPart(CallId("x"), "lookup", "ok"),),
        (TextPart("follow up"),),
    ]
    assert order.iteration == 1


def test_inputs_that_join_together_are_a_message_each_with_its_origin() -> None:
    turn, _ = play(start(turn_index=2), answers("Hi."), joins("one", "two"))

    assert [(message.id, message.origin) for message in turn.added[2:]] == [
        ("m2.2", Origin("injected", "j0", "key-0")),
        ("m2.3", Origin("injected", "j1", "key-1")),
    ]
    assert turn.joined == ("j0", "j1")


def test_a_first_answer_is_no_outcome_once_input_has_joined() -> None:
    turn, _ = play(start(), answers("Hi."), joins("And me?"))

    assert turn.held is None
    assert turn.outcome is None


def test_input_that_joins_when_no_call_is_left_is_kept_and_not_answered() -> None:
    turn, effects = play(start(agent=replace(AGENT, max_iterations=1)), answers("Hi."), joins("And me?"))

    assert isinstance(effects[-1], Finish)
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert [issue.code for issue in turn.issues] == ["max_turns"]
    assert parts_of(turn.added[-1]) == [("text", "And me?")]
    assert turn.joined == ("j0",)


def test_every_checkpoint_has_a_key_of_its_own() -> None:
    _, effects = play(
        start(), answers(call()), returned("ok"), NOTHING, answers("Hi."), joins("more"), answers("Ho."), NOTHING
    )
    checkpoints = [effect for effect in effects if isinstance(effect, TakeCheckpoint)]

    assert [(effect.kind, effect.iteration, effect.effect_id) for effect in checkpoints] == [
        (CheckpointKind.AFTER_WORK, 1, 4),
        (CheckpointKind.BEFORE_COMPLETION, 1, 7),
        (CheckpointKind.BEFORE_COMPLETION, 2, 10),
    ]


def test_history_is_read_and_not_added_again() -> None:
    earlier: tuple[Message, ...] = play(start("Before"), answers("Then."), NOTHING)[0].added

    turn, effects = play(start("Now", history=earlier, turn_index=2), answers("Hi."), NOTHING)

    assert isinstance(effects[0], CallModel)
    assert len(effects[0].request.messages) == 3
    assert [message.id for message in turn.added] == ["m2.0", "m2.1"]
