"""Whatever a model does, the turn ends in the outcome that fits, and the session goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lash_tasks import tool
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart, ToolStatus
from lash_tasks.domain.turns import AssembledTurn, OutputState, outcome_kind
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.requests import ModelResponse, TerminalReason
from lash_tasks.ports import Interrupt, ModelCall, ModelStream, ProviderFailure
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.rows import INLINE_OUTCOME_BYTES
from tests.turns.models import Answer, Model, calls, says, script
from tests.turns.stage import Stage, agent

ASKED = "be bad"


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def outcome_of(turn: AssembledTurn) -> str:
    return outcome_kind(turn.outcome)


def play(stage: Stage, *answers: Answer, tools: Any = (weather,)) -> AssembledTurn:
    """One turn in which the model gives these answers."""
    stage.agents, stage.model = [agent(*tools)], Model(script({ASKED: answers}))
    return stage.answer(ASKED)


# ---------------------------------------------------------------- calls that cannot be made


@dataclass(frozen=True, slots=True)
class BadCall:
    tool: str
    arguments: str
    code: ErrorCode
    says: str
    """Part of what the model is told."""
    shown: object
    """The arguments in the turn's result."""


BAD_CALLS = {
    "half an object": BadCall(
        "weather", '{"city": "Os', ErrorCode.INVALID_TOOL_ARGS, "is not valid JSON", '{"city": "Os'
    ),
    "no JSON": BadCall("weather", "Oslo, please", ErrorCode.INVALID_TOOL_ARGS, "is not valid JSON", "Oslo, please"),
    "an array": BadCall("weather", '["Oslo"]', ErrorCode.INVALID_TOOL_ARGS, "is not a JSON object", '["Oslo"]'),
    "NaN": BadCall("weather", '{"city": NaN}', ErrorCode.INVALID_TOOL_ARGS, "NaN", '{"city": NaN}'),
    "too large a number": BadCall(
        "weather", '{"city": 1e999}', ErrorCode.INVALID_TOOL_ARGS, "too large", '{"city": 1e999}'
    ),
    "deep nesting": BadCall(
        "weather",
        '{"city": ' + "[" * 5000 + "]" * 5000 + "}",
        ErrorCode.INVALID_TOOL_ARGS,
        "nested too deeply",
        '{"city": ' + "[" * 5000 + "]" * 5000 + "}",
    ),
    "a wrong type": BadCall("weather", '{"city": ["Oslo"]}', ErrorCode.INVALID_TOOL_ARGS, "city", {"city": ["Oslo"]}),
    "a missing argument": BadCall("weather", "{}", ErrorCode.INVALID_TOOL_ARGS, "city", {}),
    "nothing": BadCall("weather", "", ErrorCode.INVALID_TOOL_ARGS, "city", {}),
    "an unknown tool": BadCall(
        "sing", '{"song": "x"}', ErrorCode.TOOL_UNAVAILABLE, "available tools: weather", {"song": "x"}
    ),
    "a NUL as tool": BadCall("\x00", "{}", ErrorCode.TOOL_UNAVAILABLE, "available tools: weather", {}),
    "no tool": BadCall("", "{}", ErrorCode.TOOL_UNAVAILABLE, "available tools: weather", {}),
}


@pytest.mark.parametrize("bad", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_a_call_that_cannot_be_made_goes_back_to_the_model(stage: Stage, bad: BadCall) -> None:
    turn = play(stage, calls((bad.tool, bad.arguments)), says("sorry"))
    assert (outcome_of(turn), turn.text) == ("finished", "sorry")
    (call,) = turn.tool_calls
    assert call.outcome.failure is not None
    assert call.outcome.failure.code == bad.code
    assert bad.says in call.outcome.failure.message
    assert call.arguments == bad.shown
    assert isinstance(stage.model, Model)
    assert "[Tool execution failed]" in str(stage.model.requests[-1].messages[-1])
    stage.assert_usable()


def test_a_bad_call_does_not_keep_the_good_one_beside_it_from_running(stage: Stage) -> None:
    turn = play(stage, calls(("weather", "{"), ("weather", '{"city": "Oslo"}'), ("sing", "{}")), says("well"))
    assert [call.outcome.status for call in turn.tool_calls] == [
        ToolStatus.FAILURE,
        ToolStatus.SUCCESS,
        ToolStatus.FAILURE,
    ]
    assert turn.tool_calls[1].outcome.value == "rain in Oslo"
    stage.assert_usable()


def test_call_ids_that_come_twice_or_are_none_are_told_apart(stage: Stage) -> None:
    parts = tuple(
        ToolCallPart(CallId(call_id), "weather", f'{{"city": "{number}"}}')
        for number, call_id in enumerate(["a", "a", "", "", "\x00", "x" * 500])
    )
    turn = play(stage, ModelResponse(parts), says("done"))
    assert [call.outcome.value for call in turn.tool_calls] == [f"rain in {number}" for number in range(len(parts))]
    assert len({call.call_id for call in turn.tool_calls}) == len(parts)
    stage.assert_usable()


def test_fifty_calls_at_once_are_all_made_and_answered_in_order(stage: Stage) -> None:
    turn = play(stage, calls(*(("weather", f'{{"city": "{number}"}}') for number in range(50))), says("done"))
    assert [call.outcome.value for call in turn.tool_calls] == [f"rain in {number}" for number in range(50)]
    assert turn.text == "done"
    stage.assert_usable()


# ---------------------------------------------------------------- answers without content


@pytest.mark.raises_code("empty_response")
@pytest.mark.parametrize(
    "empty",
    [
        ModelResponse(()),
        says(""),
        says(" \n"),
        ModelResponse((ReasoningPart(" "),)),
        ModelResponse((), terminal_reason=TerminalReason.STOP),
    ],
)
def test_an_empty_first_answer_is_a_provider_error(stage: Stage, empty: ModelResponse) -> None:
    turn = play(stage, empty)
    assert outcome_of(turn) == "provider_error"
    assert [issue.code for issue in turn.errors] == [ErrorCode.EMPTY_RESPONSE]
    assert turn.assistant_output.state is OutputState.EMPTY_OUTPUT
    stage.assert_usable()


def test_an_empty_answer_to_tool_results_finishes_with_nothing(stage: Stage) -> None:
    turn = play(stage, calls(("weather", '{"city": "Oslo"}')), says(""))
    assert (outcome_of(turn), turn.text, turn.errors) == ("finished", "", ())
    stage.assert_usable()


@pytest.mark.parametrize(
    ("reason", "outcome", "kept"),
    [
        (TerminalReason.OUTPUT_LIMIT, "incomplete", "half of it"),
        (TerminalReason.CONTEXT_OVERFLOW, "provider_error", ""),
        (TerminalReason.CONTENT_FILTER, "provider_error", ""),
        (TerminalReason.PROVIDER_ERROR, "provider_error", ""),
    ],
)
def test_an_answer_that_the_provider_cut_short_stops_the_turn_and_runs_no_half_written_call(
    stage: Stage, reason: TerminalReason, outcome: str, kept: str
) -> None:
    half = (TextPart("half of it"), ToolCallPart(CallId("c"), "weather", '{"city": "Oslo"}'))
    turn = play(stage, ModelResponse(half, terminal_reason=reason, diagnostic="why"))
    assert (outcome_of(turn), turn.text, turn.tool_calls) == (outcome, kept, ())
    assert [issue.code for issue in turn.errors] == [reason.value]
    stage.assert_usable()


# ---------------------------------------------------------------- text that databases and wires choke on

ODD = {"NUL": "a\x00b", "lone surrogate": "a\ud800b", "a pair in two halves": "\ud83d\ude00"}


def valid(text: str) -> str:
    """What becomes of it: lone surrogates are replaced, everything else stays."""
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_characters_in_an_answer_are_kept_as_far_as_unicode_goes(stage: Stage, odd: str) -> None:
    turn = play(stage, says(odd))
    assert (outcome_of(turn), turn.text) == ("finished", valid(odd))
    stage.assert_usable()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_characters_go_through_arguments_and_results(stage: Stage, odd: str) -> None:
    seen: list[str] = []

    @tool
    def mirror(text: str) -> dict[str, str]:
        """Give it back."""
        seen.append(text)
        return {"back": odd}

    escaped = "".join(f"\\u{ord(character):04x}" for character in odd)
    turn = play(stage, calls(("mirror", f'{{"text": "{escaped}"}}')), says("done"), tools=[mirror])
    assert outcome_of(turn) == "finished"
    (call,) = turn.tool_calls
    # JSON reads a pair in two escapes as the one character that it means.
    read = odd.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if odd == "\ud83d\ude00" else odd
    assert seen == [valid(read)]
    assert call.arguments == {"text": valid(read)}
    assert call.outcome.value == {"back": valid(odd)}
    stage.assert_usable()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_characters_in_raw_arguments_tool_names_and_ids_end_no_turn(stage: Stage, odd: str) -> None:
    parts = (ToolCallPart(CallId(odd), odd, odd), ToolCallPart(CallId("b"), "weather", f'{{"city": "{odd}"}}'))
    turn = play(stage, ModelResponse(parts), says("done"))
    assert (outcome_of(turn), turn.text) == ("finished", "done")
    stage.assert_usable()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_characters_in_a_failure_are_kept_as_far_as_unicode_goes(stage: Stage, odd: str) -> None:
    turn = play(stage, ProviderFailure(odd, code="odd", raw=odd))
    assert outcome_of(turn) == "provider_error"
    assert [(issue.code, issue.raw) for issue in turn.errors] == [("odd", valid(odd))]
    stage.assert_usable()


# ---------------------------------------------------------------- size


def test_a_very_large_answer_and_a_very_large_result_are_stored_once_and_read_back(stage: Stage) -> None:
    large = "0123456789abcdef" * (INLINE_OUTCOME_BYTES // 4)

    @tool
    def read_all() -> str:
        """Everything."""
        return large

    turn = play(stage, calls(("read_all", "{}")), says(large), tools=[read_all])
    assert (turn.tool_calls[0].outcome.value, turn.text) == (large, large)
    outcomes = stage.rows(tables.effects)
    assert [row["outcome"] is None for row in outcomes] == [row["outcome_ref"] is not None for row in outcomes]
    assert len(stage.rows(tables.blobs)) == 2
    stage.assert_usable()


def test_a_result_over_the_limit_is_a_failure_that_says_so(stage: Stage) -> None:
    @tool
    def read_all() -> str:
        """Everything."""
        return "x" * (1024 * 1024)

    turn = play(stage, calls(("read_all", "{}")), says("well"), tools=[read_all])
    failure = turn.tool_calls[0].outcome.failure
    assert failure is not None
    assert failure.code == ErrorCode.TOOL_FAILED
    assert "at most 1048576" in failure.message
    stage.assert_usable()


# ---------------------------------------------------------------- providers that fail


def test_a_provider_that_raises_ends_the_turn_with_the_name_of_what_it_raised(stage: Stage) -> None:
    turn = play(stage, ZeroDivisionError("secret detail"))
    assert outcome_of(turn) == "provider_error"
    (issue,) = turn.errors
    assert issue.code == "provider_raised"
    assert "ZeroDivisionError" in issue.message
    assert "secret detail" not in str(turn)
    assert isinstance(stage.model, Model)
    assert stage.model.asked.total() == 1
    stage.assert_usable()


def test_a_failure_with_a_terminal_reason_of_its_own_ends_the_turn(stage: Stage) -> None:
    turn = play(stage, ProviderFailure("no", code="mine", terminal_reason="my_reason"))
    assert outcome_of(turn) == "provider_error"
    assert [issue.code for issue in turn.errors] == ["mine"]
    stage.assert_usable()


class Wordless:
    """A provider that breaks its contract and answers None, once."""

    def __init__(self) -> None:
        self._then = Model()
        self._asked = False

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        if self._asked:
            return self._then.complete(call, stream, interrupt)
        self._asked = True
        nothing: Any = None
        answer: ModelResponse = nothing
        return answer

    def close(self) -> None:
        return


@pytest.mark.raises_code("llm_provider")
def test_a_provider_that_returns_nothing_ends_the_turn(stage: Stage) -> None:
    stage.model = Wordless()
    turn = stage.answer(ASKED)
    assert outcome_of(turn) == "provider_error"
    assert [issue.code for issue in turn.errors] == [ErrorCode.LLM_PROVIDER]
    stage.assert_usable()


def test_an_unknown_provider_is_named_beside_those_there_are(stage: Stage) -> None:
    usual = stage.agents
    stage.agents = [agent(model="nowhere:best")]
    turn = stage.answer(ASKED)
    assert outcome_of(turn) == "provider_error"
    (issue,) = turn.errors
    assert issue.code == "llm_provider"
    assert "'nowhere'" in issue.message
    assert "openai, scripted, test" in issue.message
    stage.agents = usual
    stage.assert_usable()


def test_an_unknown_model_is_the_providers_error(stage: Stage) -> None:
    usual = stage.agents
    stage.agents = [agent(model="test:better")]
    turn = stage.answer(ASKED)
    assert [issue.code for issue in turn.errors] == ["model_not_found"]
    stage.agents = usual
    stage.assert_usable()
