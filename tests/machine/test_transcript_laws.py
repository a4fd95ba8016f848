"""Laws of what a turn leaves behind, over generated turns: its transcript, its result, its usage."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given

from lash_tasks.domain.codec import decode, encode, parse_object
from lash_tasks.domain.ids import CallId, ReplayKey
from lash_tasks.domain.messages import Message, Role, ToolCallPart, ToolResultPart, unanswered_calls
from lash_tasks.domain.turns import AssembledTurn, Finished, StopKind, stopped
from lash_tasks.domain.usage import NO_USAGE, TokenUsage
from lash_tasks.machine.assembly import assemble
from lash_tasks.machine.effects import CallModel, CheckpointPassed, ModelReturned
from lash_tasks.machine.requests import ModelMessage, ModelRequest
from lash_tasks.machine.turn import advance
from tests.domain.laws import law
from tests.machine.generated import Played, played_turns
from tests.machine.turns import start


@law
@given(played_turns())
def test_every_call_is_answered_once_and_behind_it(played: Played) -> None:
    called: list[CallId] = []
    answered: list[CallId] = []
    for message in played.turn.added:
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                assert message.role is Role.ASSISTANT
                called.append(part.call_id)
            elif isinstance(part, ToolResultPart):
                assert message.role is Role.USER
                assert part.call_id in called
                answered.append(part.call_id)

    assert answered == called
    assert len(called) == len(set(called))
    assert [record.call_id for record in played.turn.calls] == called
    assert unanswered_calls(played.turn.added) == ()


@law
@given(played_turns())
def test_results_follow_their_calls_at_once(played: Played) -> None:
    """Providers refuse a transcript with anything between the two."""
    for before, after in pairwise(played.turn.added):
        calls = [part.call_id for part in before.parts if isinstance(part, ToolCallPart)]
        if calls:
            assert [part.call_id for part in after.parts if isinstance(part, ToolResultPart)] == calls


@law
@given(played_turns())
def test_messages_are_numbered_in_order_and_none_is_empty(played: Played) -> None:
    index = played.turn.intent.turn_index

    assert [message.id for message in played.turn.added] == [f"m{index}.{n}" for n in range(len(played.turn.added))]
    assert all(message.parts for message in played.turn.added)


@law
@given(played_turns())
def test_the_transcript_and_the_calls_only_grow(played: Played) -> None:
    """But for the input of a turn that a plugin refuses before it begins: that leaves nothing."""
    turn, _ = played.start()
    for reply in played.replies:
        after, _ = advance(turn, reply)
        if not after.added and after.outcome == stopped(StopKind.PLUGIN_ABORT):
            assert (after.calls, after.usage, after.joined) == ((), (), ())
            return
        for field in ("added", "calls", "usage", "issues", "joined"):
            assert getattr(after, field)[: len(getattr(turn, field))] == getattr(turn, field)
        turn = after


@law
@given(played_turns())
def test_what_joined_is_in_the_transcript_once_and_ends_with_the_turn(played: Played) -> None:
    delivered = [
        item.batch_id for reply in played.replies if isinstance(reply, CheckpointPassed) for item in reply.joined
    ]
    origins = [message.origin for message in played.turn.added if message.origin and message.origin.kind == "injected"]

    assert [origin.batch_id for origin in origins] == delivered
    assert assemble(played.turn, None, attempt=1).batch_ids == (*played.turn.intent.batch_ids, *delivered)


@law
@given(played_turns())
def test_usage_is_what_the_model_calls_reported(played: Played) -> None:
    reported: list[tuple[ReplayKey, TokenUsage]] = []
    for order, reply in zip(played.orders, played.replies, strict=False):
        if isinstance(order, CallModel) and isinstance(reply, ModelReturned) and reply.outcome.response:
            reported.append((order.key, reply.outcome.response.usage))

    assert [(entry.effect_key, entry.usage) for entry in played.turn.usage] == [
        (key, usage) for key, usage in reported if usage
    ]
    total = assemble(played.turn, None, attempt=1).turn.token_usage
    assert total == sum((usage for _, usage in reported), NO_USAGE)


@law
@given(played_turns())
def test_the_result_survives_storing(played: Played) -> None:
    result = assemble(played.turn, None, attempt=2)
    stored = encode(AssembledTurn, result.turn)
    read: AssembledTurn = decode(AssembledTurn, stored)

    assert encode(AssembledTurn, read) == stored
    assert read.ok == isinstance(played.turn.outcome, Finished)
    assert read.text == result.turn.assistant_output.safe_text
    for node in result.nodes:
        assert encode(Message, decode(Message, encode(Message, node.message))) == encode(Message, node.message)


@law
@given(played_turns())
def test_whatever_was_said_any_provider_can_be_asked_next(played: Played) -> None:
    for order in played.orders:
        if isinstance(order, CallModel):
            check_request(order.request)
    _, order = start("And now?", history=(*played.history, *played.turn.added), turn_index=8)
    assert isinstance(order, CallModel)
    check_request(order.request)


def check_request(request: ModelRequest) -> None:
    """A request that no provider refuses for its form."""
    called: set[str] = set()
    for message in request.messages:
        assert message.parts
        assert message.role in (Role.USER, Role.ASSISTANT)
        encode(ModelMessage, message).decode("utf-8")
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part.tool)
                parse_object(part.arguments)
                called.add(part.call_id)
            elif isinstance(part, ToolResultPart):
                assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part.tool)
                assert part.call_id in called
    assert not request.system.startswith((" ", "\n"))
