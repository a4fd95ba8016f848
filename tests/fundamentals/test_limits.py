"""A turn ends: after `max_iterations` model calls it stops, whatever the model still wants."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.domain.messages import Role, text_of, unanswered_calls
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SUPPORT, SmallRuntime, call, calls, start


def test_a_model_that_never_answers_is_stopped() -> None:
    """The last round's tools still run, because the model asked for them within its limit."""
    asked: list[ModelRequest] = []

    def restless(request: ModelRequest) -> ModelResponse:
        asked.append(request)
        return calls(call("again", "lookup_order", "{}"))

    runtime = SmallRuntime(restless, {"lookup_order": lambda: "shipped"})
    turn = runtime.run(start("Order 12?", agent=replace(SUPPORT, max_iterations=2)))

    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert len(asked) == 2
    assert len(turn.calls) == 2
    assert unanswered_calls(turn.added) == ()


def test_the_transcript_says_why_there_is_no_answer() -> None:
    """So that the model of the next turn knows."""
    runtime = SmallRuntime(lambda request: calls(call("a", "lookup_order", "{}")), {"lookup_order": lambda: "shipped"})
    turn = runtime.run(start("Order 12?", agent=replace(SUPPORT, max_iterations=1)))

    assert turn.added[-1].role is Role.SYSTEM
    assert text_of(turn.added[-1]) == "Turn limit reached (1): the turn ended before the model could answer."
