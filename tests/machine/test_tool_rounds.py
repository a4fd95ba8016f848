"""A round of tool calls: planned from the model's answer, answered call by call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.domain.messages import Role, ToolCallPart, ToolResultPart, ToolStatus, text_of
from lash_tasks.domain.turns import (
    CALL_WITHOUT_RESULT,
    FailureClass,
    StopKind,
    ToolOutcome,
    stopped,
    tool_cancelled,
    tool_failure,
)
from lash_tasks.machine.effects import CallModel, Finish, RunTools, TakeCheckpoint, ToolsReturned, TurnHalted
from tests.machine.turns import (
    AGENT,
    CANCELLED,
    NOTHING,
    answers,
    call,
    last,
    parts_of,
    play,
    returned,
    start,
    success,
)


def planned(*calls: ToolCallPart) -> RunTools:
    return last(RunTools, start(), answers(*calls))


def test_a_call_is_planned_with_the_object_its_arguments_spell() -> None:
    (plan,) = planned(call("x", "lookup", ' {"b": 1, "a": [null]} ')).calls

    assert plan.settled is None
    assert plan.arguments == {"b": 1, "a": [None]}
    assert (plan.index, plan.call_id, plan.tool) == (0, "x", "lookup")


def test_calls_are_planned_in_the_order_of_the_answer() -> None:
    order = planned(call("x", "note"), call("y", "lookup"), call("z", "note"))

    assert [(plan.index, plan.call_id, plan.tool) for plan in order.calls] == [
        (0, "x", "note"),
        (1, "y", "lookup"),
        (2, "z", "note"),
    ]
    assert len({plan.idempotency_key for plan in order.calls}) == 3


@pytest.mark.parametrize("arguments", ["{", "[]", '{"a": 1e999}', '{"a": NaN}', "\x00"])
def test_arguments_that_are_no_object_settle_the_call(arguments: str) -> None:
    (plan,) = planned(call("x", "lookup", arguments)).calls

    assert plan.settled is not None
    assert plan.settled.failure is not None
    assert (plan.settled.failure.kind, plan.settled.failure.code) == (FailureClass.INVALID_REQUEST, "invalid_tool_args")
    assert plan.settled.failure.message.endswith("; send one JSON object")
    assert plan.arguments == arguments


@pytest.mark.parametrize("arguments", ["{}", "{"])
def test_an_unknown_tool_settles_the_call(arguments: str) -> None:
    """Also with arguments that are wrong: the name is what the model must correct first."""
    (plan,) = planned(call("x", "Lookup", arguments)).calls

    assert plan.settled is not None
    assert plan.settled.failure is not None
    assert (plan.settled.failure.kind, plan.settled.failure.code) == (FailureClass.UNAVAILABLE, "tool_unavailable")
    assert plan.settled.failure.message == "there is no tool 'Lookup'; available tools: lookup, note"


def test_an_agent_without_tools_says_so() -> None:
    order = last(RunTools, start(agent=replace(AGENT, tools=())), answers(call()))

    settled = order.calls[0].settled
    assert settled is not None
    assert settled.failure is not None
    assert settled.failure.message == "there is no tool 'lookup'; available tools: none"


def test_results_stand_in_the_order_of_the_calls() -> None:
    outcomes = (success({"a": 1}), tool_failure(FailureClass.EXECUTION, "tool_failed", "no"), tool_cancelled())
    turn, _ = play(start(), answers(call("x"), call("y"), call("z")), ToolsReturned(outcomes))

    assert turn.added[-1].role is Role.USER
    assert [
        (part.call_id, part.tool, part.text, part.status)
        for part in turn.added[-1].parts
        if isinstance(part, ToolResultPart)
    ] == [
        ("x", "lookup", '{"a":1}', ToolStatus.SUCCESS),
        ("y", "lookup", "[Tool execution failed]\nno", ToolStatus.FAILURE),
        ("z", "lookup", "[Tool execution cancelled]\n" + CALL_WITHOUT_RESULT, ToolStatus.CANCELLED),
    ]


def test_the_result_of_a_turn_remembers_every_call() -> None:
    turn, _ = play(start(), answers(call("x", arguments='{"a": 1}'), call("y", arguments="{")), returned(1, 2))

    assert [(record.call_id, record.arguments, record.outcome.value) for record in turn.calls] == [
        ("x", {"a": 1}, 1),
        ("y", "{", 2),
    ]


def test_an_id_that_an_earlier_round_used_is_numbered() -> None:
    turn, effects = play(start(), answers(call("a")), returned("ok"), NOTHING, answers(call("a"), call("a")))

    assert isinstance(effects[-1], RunTools)
    assert [plan.call_id for plan in effects[-1].calls] == ["a#2", "a#3"]
    assert parts_of(turn.added[-1]) == [("tool_call", "a#2"), ("tool_call", "a#3")]


def test_a_limit_of_two_is_two_model_calls() -> None:
    agent = replace(AGENT, max_iterations=2)
    turn, effects = play(start(agent=agent), answers(call()), returned("ok"), NOTHING, answers(call()), returned("ok"))

    assert sum(isinstance(effect, CallModel) for effect in effects) == 2
    assert isinstance(effects[-1], Finish)
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert [issue.code for issue in turn.issues] == ["max_turns"]
    assert turn.added[-1].role is Role.SYSTEM
    assert text_of(turn.added[-1]).startswith("Turn limit reached (2): ")
    assert parts_of(turn.added[-2]) == [("tool_result", "ok")]


def test_an_answer_in_the_last_allowed_call_counts() -> None:
    agent = replace(AGENT, max_iterations=2)

    assert last(TakeCheckpoint, start(agent=agent), answers(call()), returned("ok"), NOTHING, answers("Hi."))


def test_a_halt_keeps_what_is_recorded_and_what_needed_no_run() -> None:
    calls = (call("x"), call("y", "missing"), call("z"))
    halt = TurnHalted(StopKind.CANCELLED, outcomes=((2, success("late")), (7, success("of no call"))))

    turn, _ = play(start(), answers(*calls), halt)

    assert [record.outcome.status for record in turn.calls] == [
        ToolStatus.CANCELLED,
        ToolStatus.FAILURE,
        ToolStatus.SUCCESS,
    ]
    assert [part.call_id for part in turn.added[-1].parts if isinstance(part, ToolResultPart)] == ["x", "y", "z"]


def test_a_halt_before_or_behind_a_round_adds_no_results() -> None:
    before, _ = play(start(), CANCELLED)
    behind, _ = play(start(), answers(call()), returned("ok"), CANCELLED)

    assert len(before.added) == 1
    assert [len(message.parts) for message in behind.added] == [1, 1, 1]


def test_a_settled_call_is_answered_with_what_settled_it() -> None:
    order = planned(call("x", "missing"))
    settled = order.calls[0].settled
    assert isinstance(settled, ToolOutcome)

    turn, _ = play(start(), answers(call("x", "missing")), ToolsReturned((settled,)))

    assert parts_of(turn.added[-1]) == [("tool_result", settled.model_text())]
