"""How a turn that has ended becomes its result: the first rule that fits decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.domain.ids import CallId, MessageId
from lash_tasks.domain.messages import Role, text_of
from lash_tasks.domain.turns import (
    ExecutionSummary,
    FailureClass,
    IssueKind,
    OutputState,
    StopKind,
    ToolCallRecord,
    ToolOutcome,
    TurnIssue,
    TurnOutcome,
    TurnStatus,
    finished,
    stopped,
    tool_cancelled,
    tool_failure,
)
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.assembly import TerminationPolicy, assemble, select_outcome
from lash_tasks.machine.effects import Reply, ToolsReturned
from lash_tasks.machine.requests import TerminalReason
from lash_tasks.machine.state import Turn
from tests.machine.turns import CANCELLED, NOTHING, answers, call, joins, play, returned, start

LENIENT = TerminationPolicy(treat_missing_done_as_failure=False)
ISSUE = TurnIssue(IssueKind.TOOL, "tool_failed", "no")
MISSING = TurnIssue(IssueKind.RUNTIME, "missing_done", "the turn ended without an outcome")
TRACEBACK = "Traceback (most recent call last):\nNameError: name 'x' is not defined"


def ended(*replies: Reply) -> Turn:
    return play(start(), *replies)[0]


@pytest.mark.parametrize(
    ("outcome", "issues", "tool_failed", "selected"),
    [
        # Explicit: nothing overrules it, and an answer is shown in its safe form.
        (finished("raw "), (), False, finished("safe")),
        (finished("raw "), (ISSUE, MISSING), True, finished("safe")),
        (stopped(StopKind.CANCELLED), (ISSUE,), True, stopped(StopKind.CANCELLED)),
        (stopped(StopKind.MAX_TURNS), (MISSING,), False, stopped(StopKind.MAX_TURNS)),
        # Missing done, before what else went wrong.
        (None, (MISSING,), False, stopped(StopKind.RUNTIME_ERROR)),
        (None, (ISSUE, MISSING), True, stopped(StopKind.RUNTIME_ERROR)),
        # An issue that blocks.
        (None, (ISSUE,), True, stopped(StopKind.TOOL_FAILURE)),
        (None, (ISSUE,), False, stopped(StopKind.RUNTIME_ERROR)),
        # The text itself.
        (None, (), True, finished("safe")),
        (None, (), False, finished("safe")),
    ],
)
def test_the_first_rule_that_fits_gives_the_outcome(
    outcome: TurnOutcome | None, issues: tuple[TurnIssue, ...], tool_failed: bool, selected: TurnOutcome
) -> None:
    assert select_outcome(outcome, issues, "safe", tool_failed=tool_failed) == selected


@pytest.mark.raises_code("missing_done")
def test_a_turn_without_an_outcome_is_a_failure_by_default() -> None:
    """No path of the machine leads there; a protocol that ends without saying how would."""
    turn = replace(ended(answers("Hi.")), held=None)

    strict = assemble(turn, None, attempt=1).turn
    assert strict.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert strict.errors == (MISSING,)
    assert not strict.ok

    lenient = assemble(turn, None, attempt=1, policy=LENIENT).turn
    assert lenient.outcome == finished("Hi.")
    assert lenient.errors == ()


@pytest.mark.parametrize(
    ("outcome", "selected"),
    [
        (tool_failure(FailureClass.EXECUTION, "tool_failed", "no"), StopKind.TOOL_FAILURE),
        (tool_cancelled(), StopKind.RUNTIME_ERROR),
    ],
    ids=["failed", "cancelled"],
)
def test_a_cancelled_tool_is_no_failed_one(outcome: ToolOutcome, selected: StopKind) -> None:
    record = ToolCallRecord(CallId("x"), "lookup", {}, outcome)
    turn = replace(ended(answers("Hi.")), issues=(ISSUE,), calls=(record,))

    assert assemble(turn, None, attempt=1, policy=LENIENT).turn.outcome == stopped(selected)


@pytest.mark.parametrize(
    ("replies", "raw"),
    [
        # The answer, even an empty one behind prose.
        ((answers("Hi. "), NOTHING), "Hi. "),
        ((answers("Let me see.", call()), returned("ok"), NOTHING, answers(), NOTHING), ""),
        ((answers("First."), joins("more"), answers("Second."), NOTHING), "Second."),
        # Without an answer, the last prose.
        ((answers("Let me see.", call()), CANCELLED), "Let me see."),
        ((answers("One", call()), returned("ok"), NOTHING, answers(call()), CANCELLED), "One"),
        ((answers("First."), joins("more"), CANCELLED), "First."),
        ((answers("First."), joins("more"), answers("Second.", call()), CANCELLED), "Second."),
        ((answers("Partly", reason=TerminalReason.OUTPUT_LIMIT),), "Partly"),
        # None at all; what the user said is none.
        ((CANCELLED,), ""),
        ((answers(call()), CANCELLED), ""),
    ],
)
def test_the_text_is_the_answer_and_else_the_last_prose(replies: tuple[Reply, ...], raw: str) -> None:
    output = assemble(ended(*replies), None, attempt=1).turn.assistant_output

    assert output.raw_text == raw
    assert output.safe_text == raw.strip()


@pytest.mark.parametrize(
    ("replies", "state"),
    [
        ((answers("Hi."), NOTHING), OutputState.USABLE),
        ((answers("Partly", reason=TerminalReason.OUTPUT_LIMIT),), OutputState.RECOVERED_FROM_ERROR),
        ((answers(call()), returned("ok"), NOTHING, answers(), NOTHING), OutputState.EMPTY_OUTPUT),
        ((answers(),), OutputState.EMPTY_OUTPUT),
        ((answers(TRACEBACK), NOTHING), OutputState.TRACEBACK_ONLY),
    ],
)
def test_every_state_of_the_output_is_reached(replies: tuple[Reply, ...], state: OutputState) -> None:
    assert assemble(ended(*replies), None, attempt=1).turn.assistant_output.state is state


def test_a_bare_traceback_is_kept_raw_and_not_shown() -> None:
    turn = assemble(ended(answers(TRACEBACK), NOTHING), None, attempt=1).turn

    assert turn.outcome == finished("")
    assert turn.assistant_output.raw_text == TRACEBACK
    assert turn.text == ""
    assert turn.ok


@pytest.mark.shows("T18")
@pytest.mark.parametrize(
    "replies",
    [
        (answers("Hi."), NOTHING),
        (answers("Hi. \n"), NOTHING),
        (answers("Partly", reason=TerminalReason.OUTPUT_LIMIT),),
        (answers(call()), returned("Hi."), NOTHING, answers("Hi."), NOTHING),
        (answers("Hi."), joins("more"), answers("Ho."), NOTHING),
    ],
)
def test_the_final_answer_is_in_the_history_once_and_last(replies: tuple[Reply, ...]) -> None:
    result = assemble(ended(*replies), None, attempt=1)
    answers_given = [
        text_of(node.message)
        for node in result.nodes
        if node.message is not None and node.message.role is Role.ASSISTANT
    ]

    assert result.nodes[-1].message is not None
    assert text_of(result.nodes[-1].message) == result.turn.assistant_output.raw_text
    assert answers_given.count(result.turn.assistant_output.raw_text) == 1


def test_the_result_names_its_turn() -> None:
    turn = assemble(ended(answers(call(), usage=TokenUsage(5, 1)), CANCELLED), None, attempt=3).turn

    assert (turn.session_id, turn.turn_id, turn.turn_index, turn.attempt) == ("s1", "t1", 1, 3)
    assert turn.status is TurnStatus.COMMITTED
    assert turn.execution == ExecutionSummary(had_tool_calls=True)
    assert turn.token_usage == TokenUsage(5, 1)
    assert turn.committed_at_ms is None
    assert not turn.ok


def stamp(turn: Turn, attempt: int = 1) -> str:
    return assemble(turn, None, attempt=attempt).stamp


@pytest.mark.shows("T7")
def test_the_stamp_covers_what_was_said_and_done() -> None:
    turn = ended(answers("Hi."), NOTHING)

    assert stamp(turn) != stamp(ended(answers("Ho."), NOTHING))
    assert stamp(turn) != stamp(replace(turn, outcome=stopped(StopKind.CANCELLED)))
    assert stamp(turn) != stamp(replace(turn, intent=replace(turn.intent, turn_index=2)))
    tools = [ended(answers(call()), returned(value), NOTHING, answers("Hi."), NOTHING) for value in ("a", "b")]
    assert stamp(tools[0]) != stamp(tools[1])


@pytest.mark.shows("T7")
def test_the_stamp_covers_nothing_else() -> None:
    """A commit whose acknowledgement was lost is recognised on a later attempt, by other claims, at a later time."""
    turn = ended(answers("Hi.", usage=TokenUsage(1, 1)), joins("more"), answers("Ho."), NOTHING)
    renamed = tuple(replace(message, id=MessageId(f"x{message.id}"), origin=None) for message in turn.added)

    assert stamp(turn, attempt=2) == stamp(turn)
    assert stamp(replace(turn, usage=(), joined=(), added=renamed)) == stamp(turn)
    assert stamp(replace(turn, intent=replace(turn.intent, base_revision=9, batch_ids=()))) == stamp(turn)


def test_a_policy_left_out_is_the_strict_one() -> None:
    assert TerminationPolicy() == TerminationPolicy(treat_missing_done_as_failure=True)


def test_failed_tools_do_not_fail_a_turn_that_answered() -> None:
    failure = ToolsReturned((tool_failure(FailureClass.EXECUTION, "tool_failed", "no"),))
    turn = assemble(ended(answers(call()), failure, NOTHING, answers("Sorry."), NOTHING), None, attempt=1).turn

    assert turn.outcome == finished("Sorry.")
    assert turn.errors == ()
    assert turn.assistant_output.state is OutputState.USABLE
