"""The scripted provider: deterministic, in process, and as interruptible as a real one."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.agents import ToolSpec
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.requests import ModelMessage, ModelRequest, ModelResponse, TerminalReason
from lash_tasks.ports import Interrupted, InterruptReason, ModelCall, ProviderFailure
from lash_tasks.providers.scripted import ScriptedProvider, last_user_text
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.providers.parts import LOOKUP, RecordingStream, answered, call_of, said

CHARGE = ToolSpec("charge_card", "Charge.", {"type": "object", "properties": {}})


class Scripted:
    """One scripted provider on a fake clock."""

    def __init__(self, provider: ScriptedProvider | None = None) -> None:
        self.clock = FakeClock()
        self.interrupt = TurnInterrupt(self.clock)
        self.stream = RecordingStream()
        self.provider = provider or ScriptedProvider()

    def __call__(self, call: ModelCall) -> ModelResponse:
        return self.provider.complete(call, self.stream, self.interrupt)

    def seconds(self, call: ModelCall) -> float:
        began = self.clock.monotonic()
        self(call)
        return self.clock.monotonic() - began


def echo(messages: str | list[ModelMessage], tools: tuple[ToolSpec, ...] = (LOOKUP, CHARGE)) -> ModelCall:
    return call_of(messages, model="echo", tools=tools)


def test_it_repeats_what_the_user_said_in_small_pieces() -> None:
    scripted = Scripted()
    answer = scripted(echo("Where is order 12?"))
    assert answer.parts == (TextPart("You said: Where is order 12?"),)
    assert answer.terminal_reason is TerminalReason.STOP
    pieces = scripted.stream.of("text")
    assert "".join(str(piece) for piece in pieces) == "You said: Where is order 12?"
    assert len(pieces) > 2


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('Please call lookup {"text": "a {b}"} now', [("lookup", '{"text": "a {b}"}')]),
        ("call lookup", [("lookup", "{}")]),
        ("call lookup now, and call charge_card {}", [("lookup", "{}"), ("charge_card", "{}")]),
        (
            'call lookup{"text": "x"}call charge_card {"a": [1]}',
            [("lookup", '{"text": "x"}'), ("charge_card", '{"a": [1]}')],
        ),
        ('call lookup {"text": "call charge_card"}', [("lookup", '{"text": "call charge_card"}')]),
        ("call nothing, call lookup", [("lookup", "{}")]),
        ("call lookup {oops\nnext line", [("lookup", "{oops")]),
        ("call lookup [1]", [("lookup", "{}")]),
    ],
)
def test_it_calls_the_tools_that_the_text_names(text: str, calls: list[tuple[str, str]]) -> None:
    answer = Scripted()(echo(text))
    made = [(part.tool, part.arguments) for part in answer.parts if isinstance(part, ToolCallPart)]
    assert made == calls
    assert answer.terminal_reason is TerminalReason.TOOL_USE


@pytest.mark.parametrize("text", ["call somebody", "recall lookup", "call lookup"])
def test_it_calls_only_what_is_offered(text: str) -> None:
    tools = () if text == "call lookup" else (LOOKUP,)
    assert Scripted()(echo(text, tools)).parts == (TextPart(f"You said: {text}"),)


def test_it_answers_tool_results_by_quoting_them() -> None:
    history = [
        said(TextPart("call lookup")),
        answered(ToolCallPart(CallId("c"), "lookup", "{}")),
        said(ToolResultPart(CallId("c"), "lookup", "shipped"), ToolResultPart(CallId("d"), "charge_card", "ok")),
    ]
    assert Scripted()(echo(history)).parts == (TextPart("lookup returned: shipped\ncharge_card returned: ok"),)


def test_the_same_request_gets_the_same_answer_and_another_one_other_ids() -> None:
    first, again = Scripted()(echo("call lookup")), Scripted()(echo("call lookup"))
    assert first == again
    longer = Scripted()(echo([said(TextPart("hi")), answered(TextPart("yo")), said(TextPart("call lookup"))]))
    ids = [part.call_id for answer in (first, longer) for part in answer.parts if isinstance(part, ToolCallPart)]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"call_[0-9a-f]{16}_0", call_id) for call_id in ids)


def test_usage_is_a_quarter_of_the_characters() -> None:
    call = call_of("x" * 40, model="echo", system="s" * 8)
    assert Scripted()(call).usage == TokenUsage(12, 12)


def test_a_slow_text_takes_its_seconds_once() -> None:
    text = "[slow 5] call lookup"
    assert Scripted().seconds(echo(text)) == pytest.approx(5, abs=0.1)
    assert Scripted().seconds(echo(text, ())) == pytest.approx(5, abs=0.1)
    results = [said(TextPart(text)), said(ToolResultPart(CallId("c"), "lookup", "x"))]
    assert Scripted().seconds(echo(results)) == 0


def test_pieces_may_be_paced() -> None:
    scripted = Scripted(ScriptedProvider(piece_seconds=0.5))
    assert scripted.seconds(echo("x" * 14, ())) == 1.5


def test_an_interrupt_stops_it_between_pieces() -> None:
    scripted = Scripted()
    scripted.stream.on_text = lambda: scripted.interrupt.set(InterruptReason.CANCELLED)
    with pytest.raises(Interrupted):
        scripted(echo("a long enough text"))
    assert len(scripted.stream.of("text")) == 1


def test_an_interrupt_stops_it_before_it_begins() -> None:
    scripted = Scripted()
    scripted.interrupt.set(InterruptReason.LOST)
    with pytest.raises(Interrupted):
        scripted(echo("hello"))
    assert scripted.stream.events == []


def test_it_keeps_to_the_time_of_the_call() -> None:
    scripted = Scripted()
    began = scripted.clock.monotonic()
    with pytest.raises(ProviderFailure) as caught:
        scripted(replace(echo("[slow 100]"), timeout_seconds=3.0))
    assert (caught.value.code, caught.value.retryable) == ("timeout", True)
    assert scripted.clock.monotonic() - began == pytest.approx(3, abs=0.1)


def test_rules_are_ones_own() -> None:
    def sober(request: ModelRequest) -> ModelResponse:
        if last_user_text(request) == "fail":
            raise ProviderFailure("as told", code="told")
        return ModelResponse((ReasoningPart("hm"), TextPart("no")), TokenUsage(1, 2))

    scripted = Scripted(ScriptedProvider({"sober": sober}))
    assert scripted(call_of(model="sober")).usage == TokenUsage(1, 2)
    assert scripted.stream.events == [("reasoning", "hm"), ("text", "no")]
    with pytest.raises(ProviderFailure, match="as told"):
        scripted(call_of("fail", model="sober"))


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ProviderFailure, match="'gpt'; known models: echo") as caught:
        Scripted()(call_of(model="gpt"))
    assert caught.value.code == "model_not_found"
