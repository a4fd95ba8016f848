"""Plugins take part in a turn at fixed places. What they ask for is recorded, so a resume asks them nothing again."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.domain.hooks import (
    AbortTurn,
    Directive,
    EnqueueMessages,
    HookFailure,
    Kept,
    PluginMessage,
    PluginReport,
    PreparedPrompt,
)
from lash_tasks.domain.ids import MessageId
from lash_tasks.domain.messages import Message, Role, TextPart, text_of
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.domain.turns import StopKind, finished, stopped
from lash_tasks.machine.effects import HooksReturned, RunHooks
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SUPPORT, SmallRuntime, says, start

PHASES = (Hook.PREPARE_CONTEXT, Hook.BEFORE_TURN, Hook.AT_CHECKPOINT, Hook.AFTER_TURN)
GUARDED = replace(SUPPORT, plugins=(PluginSpec("guard", "1", PHASES),))


def echo(request: ModelRequest) -> ModelResponse:
    return says(f"About {getattr(request.messages[-1].parts[-1], 'text', '')}")


def asks_for(*directives: Directive) -> HooksReturned:
    return HooksReturned((PluginReport("guard", directives),))


class Guard:
    """What the plugin asks for, by hook; and where it was asked."""

    def __init__(self, **wanted: HooksReturned) -> None:
        self.wanted = wanted
        self.asked: list[Hook] = []

    def __call__(self, phase: RunHooks) -> HooksReturned:
        self.asked.append(phase.hook)
        return self.wanted.get(phase.hook.value, HooksReturned())


def test_a_plugin_is_asked_at_four_places_of_a_turn() -> None:
    """Before the prompt is built, before the first model call, at each checkpoint, and when the turn has its end."""
    guard = Guard()

    turn = SmallRuntime(echo, hooks=guard).run(start("order 12", agent=GUARDED))

    assert guard.asked == list(PHASES)
    assert turn.outcome == finished("About order 12")


def test_a_resume_asks_no_hook_again() -> None:
    """Each phase is one effect: with its outcome in the journal, the machine goes the same way."""
    guard = Guard(before_turn=asks_for(EnqueueMessages((PluginMessage("The customer is in a hurry."),))))
    first = SmallRuntime(echo, hooks=guard)
    turn = first.run(start("order 12", agent=GUARDED))
    asked = len(guard.asked)

    again = SmallRuntime(echo, hooks=guard, journal=first.journal).run(start("order 12", agent=GUARDED))

    assert len(guard.asked) == asked
    assert again == turn
    assert [text_of(message) for message in turn.added][1] == "The customer is in a hurry."


def test_an_abort_before_the_turn_asks_no_model_and_leaves_no_message() -> None:
    """The input is consumed and has a recorded end; it does not enter the history."""
    guard = Guard(before_turn=asks_for(AbortTurn("too_rude", "Please be polite.")))

    def model(request: ModelRequest) -> ModelResponse:
        raise AssertionError("asked a model")

    turn = SmallRuntime(model, hooks=guard).run(start("!!!", agent=GUARDED))

    assert turn.outcome == stopped(StopKind.PLUGIN_ABORT)
    assert [issue.code for issue in turn.issues] == ["too_rude"]
    assert turn.added == ()


def test_a_transform_changes_the_prompt_and_not_the_history() -> None:
    """Recorded is the difference: of two messages the last one is kept, and a text follows the instructions."""
    prompt = PreparedPrompt((Kept(1, 1),), ("Be brief.",))
    asked: list[ModelRequest] = []

    def model(request: ModelRequest) -> ModelResponse:
        asked.append(request)
        return echo(request)

    runtime = SmallRuntime(model, hooks=Guard(prepare_context=HooksReturned(prompt=prompt)))
    history = (Message(MessageId("m0.0"), Role.USER, (TextPart("long ago"),)),)
    turn = runtime.run(start("order 12", agent=GUARDED, history=history))

    assert [len(request.messages) for request in asked] == [1]
    assert asked[0].system == "Answer briefly.\n\nBe brief."
    assert turn.history.messages[0].parts == (TextPart("long ago"),)


def test_a_hook_that_raises_ends_the_turn_with_the_code_of_its_phase() -> None:
    """The answer that the model gave stays in the history; the turn is committed as stopped."""
    failed = HooksReturned(failure=HookFailure("guard", "ValueError: no"))

    turn = SmallRuntime(echo, hooks=Guard(at_checkpoint=failed)).run(start("order 12", agent=GUARDED))

    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.issues] == ["plugin_checkpoint"]
    assert text_of(turn.added[-1]) == "About order 12"
