"""Plugins in whole turns: what they may ask for and when, what becomes of it, and what a failing one leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from lash_tasks import tool
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.hooks import AbortTurn, EmitEvent, EnqueueMessages, PluginMessage
from lash_tasks.domain.ids import fence_scope
from lash_tasks.domain.messages import Origin, Role, TextPart, text_of
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import Finished, IssueKind, StopKind, TurnIssue, stopped
from lash_tasks.machine.prepared import PreparedContext
from lash_tasks.plugins.plugin import Directives, HookContext, Plugin
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.sql import tables
from tests.turns.doubles import LiveRecorder
from tests.turns.models import Model, calls, says, script
from tests.turns.plugins import Calls, Does, plugin, raises
from tests.turns.stage import SESSION, Death, Stage, agent

ABORTED = stopped(StopKind.PLUGIN_ABORT)
FAILED = stopped(StopKind.RUNTIME_ERROR)


@tool
def look() -> str:
    """Look."""
    return "seen"


def with_plugins(stage: Stage, *plugins: Plugin) -> Model:
    """An agent with these plugins, whose model calls a tool when it is told to go."""
    model = Model(script({"go": [calls(("look", "")), says("looked"), says("looked again")]}))
    stage.agents, stage.model = [agent(look, plugins=plugins)], model
    return model


def says_once(ctx: HookContext) -> Directives:
    if any(message.origin is not None for message in ctx.messages):
        return None
    return EnqueueMessages((PluginMessage("mind the gap"),))


def texts(stage: Stage) -> list[tuple[Role, str]]:
    return [(message.role, text_of(message)) for message in stage.messages() if text_of(message)]


def refuses(ctx: HookContext) -> Directives:
    return AbortTurn("too_rude", "Please be polite.")


# ---------------------------------------------------------------- before the turn


@pytest.mark.shows("P4")
def test_a_turn_that_is_aborted_before_it_begins_asks_no_model_and_leaves_no_message(stage: Stage) -> None:
    model = with_plugins(stage, plugin({Hook.BEFORE_TURN: refuses}))
    turn = stage.answer("go")
    assert turn.outcome == ABORTED
    assert turn.errors == (TurnIssue(IssueKind.PLUGIN, "too_rude", "Please be polite."),)
    assert model.asked.total() == 0
    assert stage.messages() == []
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    with_plugins(stage)
    stage.assert_usable()


@pytest.mark.shows("P4")
def test_a_message_that_is_put_in_before_the_turn_is_asked_and_stored(stage: Stage) -> None:
    model = with_plugins(stage, plugin({Hook.BEFORE_TURN: says_once}))
    assert stage.answer("Hello").text == "You said: mind the gap"
    assert texts(stage)[:2] == [(Role.USER, "Hello"), (Role.USER, "mind the gap")]
    assert stage.messages()[1].origin == Origin("plugin", plugin="watch")
    assert model.asked.total() == 1


def test_only_messages_of_user_and_system_are_kept_and_transient_ones_only_seen(stage: Stage) -> None:
    def speaks(ctx: HookContext) -> Directives:
        roles = [PluginMessage(f"as {role}", role) for role in Role]
        return [EnqueueMessages(tuple(roles)), EnqueueMessages((PluginMessage("once"),), transient=True)]

    model = with_plugins(stage, plugin({Hook.BEFORE_TURN: speaks}))
    assert stage.answer("Hello").text == "You said: once"
    parts = [part for message in model.requests[0].messages for part in message.parts]
    asked = [part.text for part in parts if isinstance(part, TextPart)]
    assert asked == ["Hello", "as user", "Runtime note:\nas system", "once"]
    assert texts(stage)[:-1] == [(Role.USER, "Hello"), (Role.USER, "as user"), (Role.SYSTEM, "as system")]
    stage.answer("and now?")
    assert [part for message in model.requests[-1].messages for part in message.parts].count(TextPart("once")) == 1


def test_of_several_aborts_the_last_counts_and_all_plugins_are_asked(stage: Stage) -> None:
    seen = Calls()

    def other(ctx: HookContext) -> Directives:
        return AbortTurn("too_dear", "This is too dear.")

    with_plugins(
        stage,
        plugin({Hook.BEFORE_TURN: refuses}, seen, id_="first"),
        plugin({Hook.BEFORE_TURN: other}, seen, id_="second"),
    )
    assert [issue.code for issue in stage.answer("go").errors] == ["too_dear"]
    assert [name for name, hook in seen.hooks if hook is Hook.BEFORE_TURN] == ["first", "second"]


# ---------------------------------------------------------------- the prompt


def test_a_transform_changes_what_the_model_sees_and_not_the_history(stage: Stage) -> None:
    class Forgetful(Plugin):
        id = "forgetful"

        def prepare_context(self, ctx: HookContext, prepared: PreparedContext) -> PreparedContext:
            return replace(prepared, messages=prepared.messages[-1:], contributions=("Be kind.",))

    model = with_plugins(stage, Forgetful())
    for text in ("one", "two", "go"):
        stage.answer(text)
    assert [len(request.messages) for request in model.requests] == [1, 1, 1, 3]
    assert all(request.system == "Answer.\n\nBe kind." for request in model.requests)
    assert [text for role, text in texts(stage) if role is Role.USER] == ["one", "two", "go"]
    outcomes = [bytes(row["outcome"]) for row in stage.rows(tables.effects)]
    assert max(len(outcome) for outcome in outcomes if b"contributions" in outcome) < 200


def test_transforms_run_by_priority_each_on_what_the_one_before_has_left(stage: Stage) -> None:
    def adds(name: str, level: int) -> Plugin:
        class Adds(Plugin):
            id = name
            priority = level

            def prepare_context(self, ctx: HookContext, prepared: PreparedContext) -> PreparedContext:
                return replace(prepared, contributions=(*prepared.contributions, name))

        return Adds()

    model = with_plugins(stage, adds("low", 0), adds("high", 10))
    stage.answer("Hello")
    assert model.requests[0].system == "Answer.\n\nhigh\n\nlow"


@pytest.mark.raises_code("context_prepare_turn")
def test_a_prompt_that_no_model_takes_ends_the_turn(stage: Stage) -> None:
    class Careless(Plugin):
        id = "careless"

        def prepare_context(self, ctx: HookContext, prepared: PreparedContext) -> PreparedContext:
            return replace(prepared, messages=())

    with_plugins(stage, Careless())
    (issue,) = stage.answer("Hello").errors
    assert (issue.code, "must end with a message of the user" in issue.message) == ("context_prepare_turn", True)


# ---------------------------------------------------------------- at checkpoints


@pytest.mark.shows("P13")
def test_a_message_that_is_put_in_at_a_checkpoint_is_stored_and_announced(stage: Stage) -> None:
    live = LiveRecorder()
    with_plugins(stage, plugin({Hook.AT_CHECKPOINT: says_once}))
    stage.send("go")
    stage.run(wrap=lambda stores: replace(stores, live=live))
    assert (Role.USER, "mind the gap") in texts(stage)
    announced = [event.data for event in live.events if event.type is ActivityType.QUEUED_MESSAGES_COMMITTED]
    assert announced == [{"checkpoint": "after_work", "count": 1}]


def test_a_message_at_the_end_of_a_turn_is_answered_too(stage: Stage) -> None:
    with_plugins(stage, plugin({Hook.AT_CHECKPOINT: says_once}))
    assert stage.answer("Hello").text == "You said: mind the gap"
    assert [text for _, text in texts(stage)] == ["Hello", "You said: Hello", "mind the gap", "You said: mind the gap"]


def test_a_plugin_that_always_has_something_to_say_is_stopped_by_the_limit(stage: Stage) -> None:
    def always(ctx: HookContext) -> Directives:
        return EnqueueMessages((PluginMessage("and?"),))

    model = Model()
    stage.agents, stage.model = [agent(plugins=[plugin({Hook.AT_CHECKPOINT: always})], max_iterations=3)], model
    turn = stage.answer("Hello")
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert model.asked.total() == 3


@pytest.mark.shows("P13")
@pytest.mark.parametrize(("text", "answered"), [("go", ["go"]), ("Hello", ["Hello", "You said: Hello"])])
def test_an_abort_at_a_checkpoint_keeps_the_work_and_leaves_what_waits_in_the_queue(
    stage: Stage, text: str, answered: list[str]
) -> None:
    """Hooks come before the claim, so the input that came meanwhile was never taken."""
    waiting = []

    def aborts(ctx: HookContext) -> Directives:
        waiting.append(stage.inject("me too"))
        return AbortTurn("enough", "That is enough.")

    with_plugins(stage, plugin({Hook.AT_CHECKPOINT: aborts}))
    stage.send(text)
    assert stage.run() is RunVerdict.COMMITTED
    turn = stage.results()[0]
    assert turn.outcome == ABORTED
    assert [(issue.kind, issue.code) for issue in turn.errors] == [(IssueKind.PLUGIN, "enough")]
    assert [text for _, text in texts(stage)][: len(answered)] == answered
    assert len(turn.tool_calls) == (text == "go")
    with_plugins(stage)
    stage.run_all()
    assert stage.states()[waiting[0]] is BatchState.CONSUMED
    assert stage.last().text == "You said: me too"


# ---------------------------------------------------------------- after the turn


@pytest.mark.shows("P15")
def test_a_message_that_is_put_in_after_the_turn_is_stored_once_behind_the_answer(stage: Stage) -> None:
    seen = Calls()
    with_plugins(stage, plugin({Hook.AFTER_TURN: says_once}, seen))
    turn = stage.answer("Hello")
    assert turn.text == "You said: Hello"
    assert [text for _, text in texts(stage)] == ["Hello", "You said: Hello", "mind the gap"]
    (summary,) = seen.summaries
    assert (isinstance(summary.outcome, Finished), summary.text) == (True, "You said: Hello")
    assert summary.token_usage == turn.token_usage


@pytest.mark.raises_code("plugin_finalize_turn")
@pytest.mark.shows("P15")
@pytest.mark.parametrize("does", [refuses, raises])
def test_a_turn_that_has_ended_cannot_be_aborted_and_its_input_is_consumed(stage: Stage, does: Does) -> None:
    with_plugins(stage, plugin({Hook.AFTER_TURN: does}))
    turn = stage.answer("Hello")
    assert (turn.outcome, [issue.code for issue in turn.errors]) == (FAILED, ["plugin_finalize_turn"])
    assert [text for _, text in texts(stage)] == ["Hello", "You said: Hello"]
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    with_plugins(stage)
    stage.assert_usable()


def test_input_that_joins_at_the_very_end_is_shown_to_the_plugin_with_the_longer_turn(stage: Stage) -> None:
    seen, injected = Calls(), list[Any]()

    def meanwhile(ctx: HookContext) -> Directives:
        if not injected:
            injected.append(stage.inject("me too"))
        return EnqueueMessages((PluginMessage("noted", Role.SYSTEM),))

    with_plugins(stage, plugin({Hook.AFTER_TURN: meanwhile}, seen))
    turn = stage.answer("Hello")
    assert turn.text == "You said: me too"
    assert [summary.text for summary in seen.summaries] == ["You said: Hello", "You said: me too"]
    assert [text for _, text in texts(stage)].count("noted") == 1
    assert len(stage.results()) == 1


# ---------------------------------------------------------------- after the commit


@pytest.mark.shows("P16")
def test_a_plugin_that_fails_after_the_commit_changes_nothing(stage: Stage) -> None:
    seen = Calls()
    with_plugins(stage, plugin({Hook.TURN_PERSISTED: raises}, seen, id_="first"), plugin(None, seen, id_="second"))
    turn = stage.answer("Hello")
    assert turn.ok
    assert [shown.text for shown in seen.turns] == ["You said: Hello"] * 2


@pytest.mark.shows("P16")
@pytest.mark.parametrize("when", ["queue", "reject"])
def test_a_plugin_may_send_when_the_turn_is_committed_because_its_session_is_free(stage: Stage, when: str) -> None:
    shared = stage.shared = open_memory_stores(clock=stage.clock)
    held: list[frozenset[str]] = []

    def looks(ctx: HookContext) -> Directives:
        assert shared.leases.held([fence_scope(SESSION)])
        return None

    def sends(ctx: HookContext) -> Directives:
        held.append(shared.leases.held([fence_scope(SESSION)]))
        if len(held) == 1:
            stage.send("and then", when=when)
        return None

    with_plugins(stage, plugin({Hook.AFTER_TURN: looks, Hook.TURN_PERSISTED: sends}))
    stage.answer("Hello")
    assert [turn.text for turn in stage.results()] == ["You said: Hello", "You said: and then"]
    assert held == [frozenset()] * 2


# ---------------------------------------------------------------- failures, deps, order


@pytest.mark.parametrize(
    ("hook", "code", "left"),
    [
        (Hook.PREPARE_CONTEXT, "context_prepare_turn", ["Hello"]),
        (Hook.BEFORE_TURN, "plugin_prepare_turn", ["Hello"]),
        pytest.param(
            Hook.AT_CHECKPOINT,
            "plugin_checkpoint",
            ["Hello", "You said: Hello"],
            marks=pytest.mark.raises_code("plugin_checkpoint"),
        ),
        (Hook.AFTER_TURN, "plugin_finalize_turn", ["Hello", "You said: Hello"]),
    ],
)
def test_a_hook_that_raises_ends_the_turn_with_the_code_of_its_phase(
    stage: Stage, hook: Hook, code: str, left: list[str]
) -> None:
    with_plugins(stage, plugin({hook: raises}))
    turn = stage.answer("Hello")
    assert turn.outcome == FAILED
    (issue,) = turn.errors
    assert (issue.kind, issue.code) == (IssueKind.PLUGIN, code)
    assert issue.message == f"{hook} of the plugin 'watch': ValueError: no"
    assert [text for _, text in texts(stage)] == left
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    with_plugins(stage)
    stage.assert_usable()


@pytest.mark.raises_code("plugin_prepare_turn")
@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ("stop", "may return AbortTurn"),
        (AbortTurn("", "No."), "returned an AbortTurn whose code or message is no text, or blank"),
        (AbortTurn("no", cast(Any, None)), "returned an AbortTurn whose code or message is no text"),
    ],
)
def test_what_is_no_directive_is_refused(stage: Stage, odd: Any, problem: str) -> None:
    with_plugins(stage, plugin({Hook.BEFORE_TURN: lambda ctx: odd}))
    (issue,) = stage.answer("Hello").errors
    assert (issue.code, problem in issue.message) == ("plugin_prepare_turn", True)


def test_a_hook_runs_in_a_thread_of_its_own_with_deps_and_the_context_of_the_sender(stage: Stage) -> None:
    @contextmanager
    def deps() -> Iterator[str]:
        yield "a connection"

    seen = Calls()
    with_plugins(stage, plugin(None, seen))
    stage.deps = deps
    stage.answer("Hello", context={"customer": 7})
    assert {(ctx.deps, str(ctx.context), ctx.agent) for ctx in seen.contexts} == {
        ("a connection", "{'customer': 7}", "support")
    }
    keys = [ctx.idempotency_key for ctx in seen.contexts]
    assert len(set(keys)) == len(keys) == 5


def test_a_hook_may_be_a_coroutine(stage: Stage) -> None:
    class Late(Plugin):
        id = "late"

        async def before_turn(self, ctx: HookContext) -> Directives:  # type: ignore[override]
            return AbortTurn("late", "Too late.")

    with_plugins(stage, Late())
    assert stage.answer("Hello").outcome == ABORTED


def test_events_of_plugins_are_seen_live(stage: Stage) -> None:
    def shows(ctx: HookContext) -> Directives:
        return EmitEvent("budget", "Checking the budget", {"left": 3})

    live = LiveRecorder()
    with_plugins(stage, plugin({Hook.BEFORE_TURN: shows}))
    stage.send("Hello")
    stage.run(wrap=lambda stores: replace(stores, live=live))
    (event,) = [event for event in live.events if event.type is ActivityType.PLUGIN_STATUS]
    assert event.data == {"plugin": "watch", "key": "budget", "label": "Checking the budget", "detail": {"left": 3}}


def test_hooks_run_in_the_order_of_the_agent_and_of_the_turn(stage: Stage) -> None:
    seen = Calls()
    with_plugins(stage, plugin(None, seen, id_="a"), plugin(None, seen, id_="b"))
    stage.answer("go")
    order = [
        Hook.PREPARE_CONTEXT,
        Hook.BEFORE_TURN,
        Hook.AT_CHECKPOINT,
        Hook.AT_CHECKPOINT,
        Hook.AFTER_TURN,
        Hook.TURN_PERSISTED,
    ]
    assert seen.hooks == [(name, hook) for hook in order for name in ("a", "b")]


def test_a_cancelled_turn_is_shown_to_no_plugin_but_persisted(stage: Stage) -> None:
    seen = Calls()

    def cancels(ctx: HookContext) -> Directives:
        stage.cancel()
        return None

    with_plugins(stage, plugin({Hook.BEFORE_TURN: cancels}, seen))
    turn = stage.answer("Hello")
    assert turn.outcome == stopped(StopKind.CANCELLED)
    assert seen.of(Hook.AFTER_TURN) == 0
    assert len(seen.turns) == 1


def test_a_turn_is_held_until_a_worker_has_the_plugin(stage: Stage) -> None:
    with_plugins(stage, plugin({Hook.BEFORE_TURN: refuses}))
    stage.send("go")
    assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    with_plugins(stage)
    assert stage.run() is RunVerdict.NOTHING
    with_plugins(stage, plugin({Hook.BEFORE_TURN: refuses}))
    stage.run_all()
    assert stage.last().outcome == ABORTED


# ---------------------------------------------------------------- configuration


class Watching(Plugin):
    """Hears of every change, and caps the turns of a model that is dear."""

    id = "watching"

    def __init__(self) -> None:
        self.heard: list[tuple[Any, Any]] = []

    def mutate_config(self, previous: Any, proposed: Any) -> Any:
        if proposed.get("model") == "test:dear":
            proposed["max_turns"] = 2
        return proposed

    def config_changed(self, previous: Any, current: Any) -> None:
        self.heard.append((previous["model"], current["model"]))


class Spoilt(Plugin):
    """Fails at whatever it is asked."""

    id = "spoilt"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def mutate_config(self, previous: Any, proposed: Any) -> Any:
        proposed.clear()
        if self.answer is None:
            raise ValueError("no")
        return self.answer

    def config_changed(self, previous: Any, current: Any) -> None:
        raise ValueError("no")


def configure(stage: Stage, key: str, **spec: Any) -> Any:
    values = {"session_id": SESSION, "kind": "configure_session", "arguments": {"spec": spec}, "idempotency_key": key}
    with stage.ingress() as ingress:
        ingress.command(CommandRequest.parse({**values, "agent": "support"}))
    stage.run_all()
    return stage.last().output


@pytest.mark.shows("S11")
@pytest.mark.parametrize("answer", [None, {"provider": "x"}, "nonsense"])
def test_a_plugin_hears_once_of_a_change_and_may_change_it_further(stage: Stage, answer: Any) -> None:
    watching = Watching()
    model = with_plugins(stage, Spoilt(answer), watching)
    stage.answer("Hello")
    output = configure(stage, "k1", model="test:dear")
    assert (output["changed"], output["current"]["max_turns"]) == (True, 2)
    assert watching.heard == [("test:test", "test:dear")]
    assert configure(stage, "k2", model="test:dear")["changed"] is False
    assert watching.heard == [("test:test", "test:dear")]
    stage.answer("Hello again")
    assert model.asked.total() == 2  # by the new model, in the frame that the session is in
