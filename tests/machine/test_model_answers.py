"""What becomes of a model's answer: kept, shown, cut short or refused."""

from __future__ import annotations

import pytest

from lash_tasks.domain.messages import ReasoningPart, Role, TextPart
from lash_tasks.domain.turns import StopKind, finished, stopped
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.effects import CallModel, Finish, ModelReturned, RunTools, TakeCheckpoint
from lash_tasks.machine.requests import ModelError, ModelOutcome, ModelResponse, TerminalReason
from lash_tasks.machine.state import joined_text
from tests.machine.turns import NOTHING, answers, call, joins, last, parts_of, play, returned, start, thought


def test_prose_and_reasoning_are_kept_in_their_order() -> None:
    turn, _ = play(start(), answers(thought("hm"), "Hi.", thought("well")))

    assert turn.added[-1].role is Role.ASSISTANT
    assert parts_of(turn.added[-1]) == [("reasoning", "hm"), ("text", "Hi."), ("reasoning", "well")]


def test_prose_reasoning_and_calls_keep_their_order_also_in_the_next_request() -> None:
    reply = answers("Let me see.", call("x"), thought("and"), call("y"))
    turn, effects = play(start(), reply, returned("ok", "ok"), NOTHING)

    expected = [("text", "Let me see."), ("tool_call", "x"), ("reasoning", "and"), ("tool_call", "y")]
    assert parts_of(turn.added[1]) == expected
    assert isinstance(effects[-1], CallModel)
    assert [part.type for part in effects[-1].request.messages[1].parts] == [kind for kind, _ in expected]


def test_what_says_nothing_is_not_kept() -> None:
    blank = (TextPart(" \n"), ReasoningPart(" "), ReasoningPart("", {"signature": "x"}), TextPart("Hi."))

    turn, _ = play(start(), answers(*blank))

    assert turn.added[-1].parts == (ReasoningPart("", {"signature": "x"}), TextPart("Hi."))


def test_reasoning_alone_is_an_answer_without_text() -> None:
    turn, _ = play(start(), answers(thought("hm")), NOTHING)

    assert turn.outcome == finished("")
    assert parts_of(turn.added[-1]) == [("reasoning", "hm")]


@pytest.mark.parametrize(
    "parts", [(), ("",), (" \n", "\t"), (ReasoningPart(" "),)], ids=["no parts", "empty", "blank", "blank reasoning"]
)
def test_an_answer_that_says_nothing_is_an_empty_response(parts: tuple[str | ReasoningPart, ...]) -> None:
    """Blank reasoning once counted as an answer, and left a message without parts in the history."""
    turn, effects = play(start(), answers(*parts))

    assert isinstance(effects[-1], Finish)
    assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
    assert [(issue.kind.value, issue.code) for issue in turn.issues] == [("llm_provider", "empty_response")]
    assert len(turn.added) == 1


def test_nothing_to_add_to_tool_results_is_an_answer() -> None:
    turn, _ = play(start(), answers(call()), returned("ok"), NOTHING, answers(" "), NOTHING)

    assert turn.outcome == finished("")
    assert turn.issues == ()
    assert parts_of(turn.added[-1]) == [("tool_result", "ok")]


def test_nothing_to_add_to_input_that_joined_behind_the_results_is_none() -> None:
    turn, _ = play(start(), answers(call()), returned("ok"), joins("And me?"), answers(" "))

    assert [issue.code for issue in turn.issues] == ["empty_response"]


@pytest.mark.parametrize("reason", [TerminalReason.STOP, TerminalReason.TOOL_USE, TerminalReason.UNKNOWN])
def test_calls_are_run_whatever_the_provider_says_of_its_end(reason: TerminalReason) -> None:
    assert last(RunTools, start(), answers(call(), reason=reason))
    assert last(TakeCheckpoint, start(), answers("Hi.", reason=reason))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (TerminalReason.OUTPUT_LIMIT, StopKind.INCOMPLETE),
        (TerminalReason.CONTEXT_OVERFLOW, StopKind.PROVIDER_ERROR),
        (TerminalReason.CONTENT_FILTER, StopKind.PROVIDER_ERROR),
        (TerminalReason.PROVIDER_ERROR, StopKind.PROVIDER_ERROR),
    ],
)
def test_an_answer_cut_short_ends_the_turn(reason: TerminalReason, kind: StopKind) -> None:
    """Its calls may be half written: none of them runs."""
    turn, effects = play(start(), answers("Partly", call(), reason=reason, diagnostic="too long"))

    assert isinstance(effects[-1], Finish)
    assert turn.outcome == stopped(kind)
    assert [(issue.code, issue.message) for issue in turn.issues] == [
        (reason.value, f"LLM error: {reason.value}: too long")
    ]


def test_of_an_answer_that_ran_out_of_tokens_the_prose_is_kept() -> None:
    reply = answers(thought("hm"), "Partly", " ", call(), reason=TerminalReason.OUTPUT_LIMIT)
    turn, _ = play(start(), reply)

    assert parts_of(turn.added[-1]) == [("text", "Partly")]


@pytest.mark.parametrize("reason", [TerminalReason.CONTENT_FILTER, TerminalReason.CONTEXT_OVERFLOW])
def test_of_an_answer_that_was_refused_nothing_is_kept(reason: TerminalReason) -> None:
    turn, _ = play(start(), answers("Partly", reason=reason))

    assert len(turn.added) == 1


def test_an_answer_cut_short_without_a_diagnostic_names_its_reason() -> None:
    turn, _ = play(start(), answers(reason=TerminalReason.OUTPUT_LIMIT))

    assert [issue.message for issue in turn.issues] == ["LLM error: output_limit"]
    assert len(turn.added) == 1


def test_a_cancelled_answer_is_no_error() -> None:
    as_answer, _ = play(start(), answers("Partly", reason=TerminalReason.CANCELLED))
    as_error, _ = play(start(), failed(ModelError("aborted", "cancelled", TerminalReason.CANCELLED)))

    for turn in (as_answer, as_error):
        assert turn.outcome == stopped(StopKind.CANCELLED)
        assert turn.issues == ()
        assert len(turn.added) == 1


def test_a_failed_call_ends_the_turn_with_its_code() -> None:
    turn, _ = play(start(), failed(ModelError("no such model", "model_not_found", raw="404")))

    assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
    (issue,) = turn.issues
    assert (issue.code, issue.message, issue.raw) == ("model_not_found", "LLM error: no such model", "404")


def test_an_outcome_that_is_neither_is_a_failed_call() -> None:
    turn, _ = play(start(), ModelReturned(ModelOutcome()))

    assert [(issue.code, issue.message) for issue in turn.issues] == [
        ("llm_provider", "LLM error: the provider gave no answer")
    ]


def test_usage_counts_also_when_the_answer_does_not() -> None:
    usage = TokenUsage(10, 2)

    for reason in TerminalReason:
        turn, _ = play(start(), answers("Hi.", usage=usage, reason=reason))
        assert [(entry.effect_key, entry.source, entry.model, entry.usage) for entry in turn.usage] == [
            ("s1:t1:1:0:llm_call:2", "turn", "scripted:x", usage)
        ]
    assert play(start(), answers("Hi."))[0].usage == ()


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["a"], "a"),
        (["a", "b"], "a\n\nb"),
        (["a\n", "b"], "a\n\nb"),
        (["a", "\nb"], "a\n\nb"),
        (["a\n", "\nb"], "a\n\nb"),
        (["a\n\n\n", "b"], "a\n\n\nb"),
        (["a", "", " ", "b"], "a\n\nb"),
        (["\n\na"], "\n\na"),
        ([" ", "a"], "a"),
        ([" "], ""),
        ([], ""),
    ],
)
def test_pieces_of_prose_are_a_blank_line_apart(texts: list[str], joined: str) -> None:
    parts = tuple(TextPart(text) for text in texts)

    assert joined_text(ModelResponse(parts)) == joined
    assert joined_text(ModelResponse((thought(), *parts, call()))) == joined


def failed(error: ModelError) -> ModelReturned:
    return ModelReturned(ModelOutcome(error=error))
