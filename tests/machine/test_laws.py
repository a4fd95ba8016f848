"""Laws of the machine, over generated turns: replay, orders, and how a turn ends."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given

from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import ReplayKey
from lash_tasks.domain.messages import Message, unanswered_calls
from lash_tasks.domain.turns import AssembledTurn, Finished, StopKind, stopped
from lash_tasks.machine.assembly import assemble
from lash_tasks.machine.effects import (
    FINISH,
    CallModel,
    CheckOutput,
    CheckpointKind,
    CheckpointPassed,
    Effect,
    Finish,
    HooksReturned,
    InstructionsRendered,
    ModelReturned,
    OutputChecked,
    RenderInstructions,
    Reply,
    RunHooks,
    RunTools,
    TakeCheckpoint,
    ToolsReturned,
    TurnHalted,
)
from lash_tasks.machine.requests import TerminalReason
from lash_tasks.machine.state import Turn
from lash_tasks.machine.turn import MAX_CORRECTIONS, advance, reopen
from tests.domain.laws import law
from tests.machine.generated import Played, played_turns, recorded
from tests.machine.turns import CANCELLED, NOTHING, answers, joins, returned

EVERY_FACT: list[Reply] = [
    InstructionsRendered("x"),
    answers("x"),
    OutputChecked("x"),
    returned("x"),
    NOTHING,
    joins("x"),
    HooksReturned(),
]


def spelled(order: Effect) -> bytes:
    return encode(type(order), order)


def committed(turn: Turn) -> tuple[bytes, bytes, str]:
    """Everything of a turn that is committed: messages, result, stamp."""
    result = assemble(turn, None, attempt=1)
    return encode(tuple[Message, ...], turn.added), encode(AssembledTurn, result.turn), result.stamp


def asked(order: Effect) -> list[tuple[int, list[ReplayKey]]]:
    """The effect id of an order, and the replay keys under which its outcomes are recorded."""
    if isinstance(order, Finish):
        return []
    return [
        (
            order.effect_id,
            [order.key, *(call.key for call in order.calls)] if isinstance(order, RunTools) else [order.key],
        )
    ]


@law
@given(played_turns())
def test_the_same_facts_give_the_same_orders_byte_for_byte(played: Played) -> None:
    turn, orders = played.again()

    assert [spelled(order) for order in orders] == [spelled(order) for order in played.orders]
    assert committed(turn) == committed(played.turn)


@law
@given(played_turns())
def test_facts_from_the_journal_lead_to_the_same_place(played: Played) -> None:
    """A resume reads what the first run had in its hands: storing it must lose nothing that matters."""
    turn, orders = played.again(tuple(recorded(reply) for reply in played.replies))

    assert [spelled(order) for order in orders] == [spelled(order) for order in played.orders]
    assert committed(turn) == committed(played.turn)


@law
@given(played_turns())
def test_a_turn_ends_within_its_limit_of_model_calls(played: Played) -> None:
    calls = [order for order in played.orders if isinstance(order, CallModel)]

    first_of_each = [order for order in calls if order.instead_of is None]
    assert len(first_of_each) <= played.turn.agent.max_iterations
    assert [order.iteration for order in first_of_each] == list(range(len(first_of_each)))


@law
@given(played_turns())
def test_each_model_is_given_up_once_and_only_for_a_failure_that_could_pass(played: Played) -> None:
    models = list(played.turn.agent.models)
    for order, reply, after in zip(played.orders, played.replies, played.orders[1:], strict=False):
        if isinstance(order, CallModel):
            assert order.model == models[0]
            error = reply.outcome.error if isinstance(reply, ModelReturned) and not reply.outcome.response else None
            if isinstance(after, CallModel):
                assert error is not None
                assert error.retryable
                assert (after.instead_of, after.request) == (models.pop(0), order.request)
            elif error is not None and error.retryable and error.terminal_reason is not TerminalReason.CANCELLED:
                assert len(models) == 1


@law
@given(played_turns())
def test_only_an_answer_that_fits_is_an_output(played: Played) -> None:
    checks = [reply for reply in played.replies if isinstance(reply, OutputChecked)]
    in_a_row = 0
    for check in checks:
        in_a_row = in_a_row + 1 if check.problem is not None else 0
        assert in_a_row <= MAX_CORRECTIONS + 1
    if isinstance(played.turn.outcome, Finished) and played.turn.agent.output_schema is not None:
        assert checks[-1].problem is None
        assert played.turn.output == checks[-1].value


@law
@given(played_turns())
def test_effect_ids_rise_and_replay_keys_differ(played: Played) -> None:
    found = [entry for order in played.orders for entry in asked(order)]
    ids = [effect_id for effect_id, _ in found]
    keys = [key for _, keys in found for key in keys]

    assert all(before < after for before, after in pairwise(ids))
    assert len(keys) == len(set(keys))
    assert all(
        re.fullmatch(r"s1:t1:[17]:\d:[a-z_]+:\d+(:child:\d+:[A-Za-z0-9_.:#-]{1,64}:attempt:1)?", key) for key in keys
    )


@law
@given(played_turns())
def test_orders_carry_their_place_in_their_key(played: Played) -> None:
    for order in played.orders:
        if not isinstance(order, Finish):
            assert order.key.endswith(f":{order.effect_id}")
        if isinstance(order, CallModel | RunTools | TakeCheckpoint):
            assert f":{order.iteration}:" in order.key


@law
@given(played_turns())
def test_a_finished_turn_ignores_every_further_fact(played: Played) -> None:
    for fact in (*EVERY_FACT, CANCELLED, *played.replies):
        assert advance(played.turn, fact) == (played.turn, FINISH)


@law
@given(played_turns())
def test_a_fact_of_the_wrong_kind_changes_nothing(played: Played) -> None:
    turn, order = played.start()
    for reply in played.replies:
        for fact in EVERY_FACT:
            if not _answers(order, fact):
                assert advance(turn, fact) == (turn, order)
        turn, order = advance(turn, reply)


@law
@given(played_turns())
def test_a_halt_ends_the_turn_at_any_point(played: Played) -> None:
    turn, order = played.start()
    for reply in played.replies:
        halted, last = advance(turn, CANCELLED)
        assert last is FINISH
        # One whose plugins are about to see its end, or its answer, has ended.
        ends_as_it_is = isinstance(order, RunHooks) and order.checkpoint is CheckpointKind.BEFORE_COMPLETION
        known = turn.outcome or (turn.held if ends_as_it_is else None)
        assert halted.outcome == (known or stopped(StopKind.CANCELLED))
        assert unanswered_calls(halted.added) == ()
        assert halted.added[: len(turn.added)] == turn.added
        turn, order = advance(turn, reply)
    assert order is FINISH


@law
@given(played_turns())
def test_an_ended_turn_has_an_outcome(played: Played) -> None:
    """A turn that finished was let go by a checkpoint, and one that stopped says why unless it was cancelled."""
    outcome = played.turn.outcome
    assert outcome is not None
    if isinstance(outcome, Finished):
        last = _last_checkpoint(played)
        assert last.kind is CheckpointKind.BEFORE_COMPLETION
        assert len(played.turn.issues) == played.turn.models_failed
    elif outcome != stopped(StopKind.CANCELLED) and not isinstance(played.replies[-1], TurnHalted):
        assert len(played.turn.issues) > played.turn.models_failed


@law
@given(played_turns())
def test_a_finished_turn_that_is_opened_again_and_takes_nothing_ends_as_before(played: Played) -> None:
    if not isinstance(played.turn.outcome, Finished):
        return
    turn, order = advance(reopen(played.turn, _last_checkpoint(played))[0], NOTHING)
    if isinstance(order, RunHooks):  # with the same key, so that what plugins have said of this end is found
        assert order == played.orders[-2]
        turn, order = advance(turn, played.replies[-1])
    assert (turn, order) == (played.turn, FINISH)


def _last_checkpoint(played: Played) -> TakeCheckpoint:
    """The order that let the turn go; behind it only plugins have looked at it."""
    at = -3 if isinstance(played.orders[-2], RunHooks) else -2
    last = played.orders[at]
    assert isinstance(last, TakeCheckpoint)
    return last


def _answers(order: Effect, fact: Reply) -> bool:
    match order, fact:
        case RunTools(), ToolsReturned():
            return len(order.calls) == len(fact.outcomes)
        case (
            (RenderInstructions(), InstructionsRendered())
            | (CallModel(), ModelReturned())
            | (CheckOutput(), OutputChecked())
            | (TakeCheckpoint(), CheckpointPassed())
            | (RunHooks(), HooksReturned())
        ):
            return True
        case _:
            return False
