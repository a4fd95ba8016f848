"""Calling the hooks of plugins, as tools are called, and what comes of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Never, TypeVar

from lash_tasks.domain.codec import JsonObject, JsonValue, canonical, from_json, parse, scrub, to_json
from lash_tasks.domain.hooks import AbortTurn, Directive, EmitEvent, EnqueueMessages, HookFailure, PluginReport
from lash_tasks.domain.plugins import Hook
from lash_tasks.machine.prepared import PreparedContext, prompt_problem
from lash_tasks.machine.requests import ModelMessage
from lash_tasks.plugins.plugin import HookContext, Plugin, spec_of
from lash_tasks.ports import HookInvocation, HookReturned, Interrupt, Interrupted
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.calling import Caller, CallFailed, CallTimedOut, InCall

log = logging.getLogger(__name__)
T = TypeVar("T")

CONFIG_SECONDS = 30.0
"""How long a plugin may think about a changed configuration."""


class HookDispatcher:
    """The HookRunner of a worker: it calls the plugins of `agents` in the threads of their tools."""

    def __init__(self, agents: Mapping[str, Agent], caller: Caller) -> None:
        self._agents = agents
        self._caller = caller

    def run(self, invocation: HookInvocation, interrupt: Interrupt) -> HookReturned | HookFailure:
        interrupt.check()
        agent = self._agents.get(invocation.turn.agent)
        plugin = agent.plugin(invocation.plugin) if agent else None
        if plugin is None:
            return HookFailure(invocation.plugin, "this worker does not have it")

        def body(call: InCall) -> HookReturned:
            state = None if invocation.state is None else parse(canonical(invocation.state))  # its own, to change
            context = _context(invocation, call, plugin.restore(state))
            value = call.finished(_call(plugin, invocation, context))
            changed, taken = _captured(plugin, context.memory, invocation.state)
            prepared = _prepared(value) if invocation.hook is Hook.PREPARE_CONTEXT else None
            directives = () if prepared is not None else _directives(value)
            return HookReturned(PluginReport(plugin.id, directives, changed, taken), prepared)

        try:
            return self._caller.call(body, invocation.timeout_seconds, interrupt, _ids(invocation))
        except CallFailed as failed:
            log.warning("hook failed", exc_info=failed.error, extra=_ids(invocation))
            return HookFailure(plugin.id, scrub(failed.message))
        except CallTimedOut:
            log.warning("hook timed out", extra=_ids(invocation))
            return HookFailure(plugin.id, f"did not finish within {invocation.timeout_seconds:g} s")

    def mutate_config(
        self,
        agent: str,
        previous: JsonObject,
        proposed: JsonObject,
        accept: Callable[[JsonObject], JsonObject],
        interrupt: Interrupt,
    ) -> JsonObject:
        for plugin in self._with(agent, Hook.MUTATE_CONFIG):
            mutate = partial(plugin.mutate_config, _own(previous), _own(proposed))
            try:
                proposed = self._configure(plugin, accept, mutate, interrupt)
            except Exception:
                log.warning("a plugin failed to change a configuration", exc_info=True, extra={"plugin": plugin.id})
        return proposed

    def config_changed(self, agent: str, previous: JsonObject, current: JsonObject, interrupt: Interrupt) -> None:
        for plugin in self._with(agent, Hook.CONFIG_CHANGED):
            try:
                tell = partial(plugin.config_changed, _own(previous), _own(current))
                self._configure(plugin, lambda value: None, tell, interrupt)
            except (Exception, Interrupted):
                log.warning("a plugin failed at a changed configuration", exc_info=True, extra={"plugin": plugin.id})

    def _with(self, agent: str, hook: Hook) -> list[Plugin]:
        found = self._agents.get(agent)
        return [] if found is None else [plugin for plugin in found.plugins if hook in spec_of(plugin).hooks]

    def _configure(
        self, plugin: Plugin, then: Callable[[JsonValue], T], hook: Callable[[], JsonValue], interrupt: Interrupt
    ) -> T:
        ids = {"plugin": plugin.id}
        return self._caller.call(lambda call: then(call.finished(hook())), CONFIG_SECONDS, interrupt, ids)


def _own(value: JsonObject) -> JsonObject:
    """A copy that a plugin may change."""
    copy: JsonObject = parse(canonical(value))
    return copy


def _call(plugin: Plugin, invocation: HookInvocation, context: HookContext) -> object:
    match invocation.hook:
        case Hook.PREPARE_CONTEXT if invocation.prepared is not None:
            return plugin.prepare_context(context, invocation.prepared)
        case Hook.BEFORE_TURN:
            return plugin.before_turn(context)
        case Hook.AT_CHECKPOINT:
            return plugin.at_checkpoint(context)
        case Hook.AFTER_TURN if invocation.summary is not None:
            return plugin.after_turn(context, invocation.summary)
        case Hook.TURN_PERSISTED if invocation.persisted is not None:
            plugin.turn_persisted(context, invocation.persisted)
            return None
        case _:
            raise ValueError(f"{invocation.hook} is no hook of a turn")


def _context(invocation: HookInvocation, call: InCall, memory: JsonValue) -> HookContext:
    turn = invocation.turn
    return HookContext(
        session_id=turn.session_id,
        turn_id=turn.turn_id,
        turn_index=turn.turn_index,
        agent=turn.agent,
        context=turn.context,
        admitted_at_ms=turn.admitted_at_ms,
        idempotency_key=invocation.idempotency_key,
        messages=invocation.messages,
        checkpoint=invocation.checkpoint,
        deps=call.deps,
        memory=memory,
        _cancelled=call.given_up,
    )


def _captured(plugin: Plugin, memory: JsonValue, before: JsonValue) -> tuple[bool, JsonValue]:
    """Whether the plugin's state is another one now, and which. One that cannot be taken leaves it as it was."""
    try:
        taken = canonical(scrub(plugin.snapshot(memory)))
    except Exception:
        log.warning("the state of a plugin could not be taken", exc_info=True, extra={"plugin": plugin.id})
        return False, None
    changed = taken != canonical(before)
    return changed, parse(taken) if changed else None


def _directives(value: object) -> tuple[Directive, ...]:
    given = () if value is None else value if isinstance(value, Sequence) else (value,)
    directives: list[Directive] = []
    for one in given:
        if not isinstance(one, AbortTurn | EnqueueMessages | EmitEvent):
            _refuse(f"returned {type(one).__name__}; it may return AbortTurn, EnqueueMessages and EmitEvent")
        if isinstance(one, AbortTurn) and not (_is_said(one.code) and _is_said(one.message)):
            _refuse("returned an AbortTurn whose code or message is no text, or blank")
        # As a replay will read it.
        recorded: Directive = from_json(Directive, parse(canonical(scrub(to_json(Directive, one)))))
        directives.append(recorded)
    return tuple(directives)


def _is_said(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _prepared(value: object) -> PreparedContext:
    if not isinstance(value, PreparedContext):
        _refuse(f"returned {type(value).__name__}; it must return the PreparedContext, or one made from it")
    messages, contributions = tuple(value.messages), tuple(value.contributions)
    if not all(isinstance(message, ModelMessage) for message in messages):
        _refuse("the messages must be ModelMessage(...)")
    if not all(isinstance(text, str) for text in contributions):
        _refuse("the contributions must be strings")
    if (problem := prompt_problem(messages)) is not None:
        _refuse(f"the messages {problem}")
    scrubbed: list[str] = scrub(list(contributions))
    return PreparedContext(messages, tuple(scrubbed))


def _refuse(problem: str) -> Never:
    raise TypeError(problem)


def _ids(invocation: HookInvocation) -> dict[str, str]:
    return {
        "session_id": invocation.turn.session_id,
        "turn_id": invocation.turn.turn_id,
        "plugin": invocation.plugin,
        "hook": invocation.hook.value,
    }
