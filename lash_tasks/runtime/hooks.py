"""One phase of hooks: the plugins of a turn are called one after another, and told what the ones before have left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.codec import JsonValue, decode, digest, encode
from lash_tasks.domain.hooks import AbortTurn, EmitEvent, EnqueueMessages, HookFailure, PluginReport
from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.messages import Role
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.turns import AssembledTurn, TurnContext
from lash_tasks.errors import NotFound, UnsupportedRecordSchemaVersion
from lash_tasks.machine.effects import HooksReturned, RunHooks
from lash_tasks.machine.prepared import PreparedContext, written_down
from lash_tasks.machine.state import Turn
from lash_tasks.ports import HookInvocation, Interrupt, Interrupted
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.runtime.live import LivePublisher
from lash_tasks.runtime.phases import TurnPhases
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.stores.protocols import StateWrite, StoredState

log = logging.getLogger(__name__)

OBSERVER_SECONDS = 60.0
"""How long `turn_persisted` of one plugin may keep a worker's thread."""


@dataclass(frozen=True, slots=True)
class PluginState:
    """The body of a stored state."""

    plugin: str
    version: str
    """Of the plugin that left it."""
    state: JsonValue


class PluginStates:
    """The states that a session's plugins had before the turn, read when the first hook wants one."""

    def __init__(self, read: Callable[[], list[StoredState]]) -> None:
        self._read = read
        self._stored: dict[str, StoredState] | None = None

    def before(self, plugin: str) -> JsonValue:
        """None if there is none. ValueError and UnsupportedRecordSchemaVersion if it cannot be read."""
        stored = self._all().get(_name(plugin))
        if stored is None:
            return None
        body: PluginState = decode(PluginState, stored.body)
        return body.state

    def writes(self, turn: Turn) -> tuple[StateWrite, ...]:
        """What the commit of the turn sets."""
        versions = {plugin.id: plugin.version for plugin in turn.agent.plugins or ()}
        writes = []
        for plugin, state in turn.states:
            stored = self._all().get(_name(plugin))
            body = encode(PluginState, PluginState(plugin, versions[plugin], state))
            if stored is None or stored.ref != blob_ref(body):
                generation = 1 if stored is None else stored.generation + 1
                writes.append(StateWrite(_name(plugin), generation, body))
        return tuple(writes)

    def _all(self) -> dict[str, StoredState]:
        if self._stored is None:
            self._stored = {stored.name: stored for stored in self._read()}
        return self._stored


def _name(plugin: str) -> str:
    return f"plugin:{plugin}"


class HookPerformer:
    """Calls the hooks of one open turn. Recording is another's affair."""

    def __init__(self, services: RuntimeServices, turn: TurnContext, states: PluginStates, phases: TurnPhases) -> None:
        self._services = services
        self._turn = turn
        self.states = states
        self._phases = phases

    def run(self, effect: RunHooks, seconds_left: Callable[[], float], interrupt: Interrupt) -> HooksReturned:
        """Stops at the first hook that fails. Raises Interrupted, and StoreUnavailable when no state can be read."""
        reports: list[PluginReport] = []
        prepared = PreparedContext(effect.prompt)
        states = dict(effect.states)
        for plugin in effect.plugins:
            try:
                state = states[plugin.id] if plugin.id in states else self.states.before(plugin.id)
            except (NotFound, UnsupportedRecordSchemaVersion, ValueError) as error:
                if isinstance(error, UnsupportedRecordSchemaVersion) and error.newer:
                    raise
                log.exception("the state of a plugin cannot be read", extra={"plugin": plugin.id})
                return HooksReturned(failure=HookFailure(plugin.id, f"its state cannot be read: {error}"))
            invocation = HookInvocation(
                turn=self._turn,
                plugin=plugin.id,
                hook=effect.hook,
                idempotency_key=f"lash-{digest([effect.key, plugin.id])[:40]}",
                timeout_seconds=max(1.0, seconds_left()),
                messages=effect.added,
                checkpoint=None if effect.checkpoint is None else effect.checkpoint.value,
                state=state,
                prepared=prepared,
                summary=effect.summary,
            )
            with self._phases.during_hook(effect.hook, plugin.id):
                returned = self._services.hooks.run(invocation, interrupt)
            if isinstance(returned, HookFailure):
                return HooksReturned(failure=returned)
            reports.append(returned.report)
            prepared = returned.prepared or prepared
        return HooksReturned(tuple(reports), prompt=written_down(effect.prompt, prepared))

    def observe(self, turn: Turn, persisted: AssembledTurn) -> None:
        """Show the committed turn to those that want to see it. Nothing comes of what they raise."""
        states = dict(turn.states)
        for plugin in turn.agent.with_hook(Hook.TURN_PERSISTED):
            try:
                invocation = HookInvocation(
                    turn=self._turn,
                    plugin=plugin.id,
                    hook=Hook.TURN_PERSISTED,
                    idempotency_key=f"lash-{digest([persisted.session_id, persisted.turn_id, plugin.id])[:40]}",
                    timeout_seconds=OBSERVER_SECONDS,
                    state=states[plugin.id] if plugin.id in states else self.states.before(plugin.id),
                    persisted=persisted,
                )
                with self._phases.during_hook(Hook.TURN_PERSISTED, plugin.id):
                    self._services.hooks.run(invocation, TurnInterrupt(self._services.clock))
            except (Exception, Interrupted):
                log.exception("a plugin was not shown a turn", extra={"plugin": plugin.id})


def show(live: LivePublisher, effect: RunHooks, outcome: HooksReturned) -> None:
    """The live events of a phase, once it is recorded."""
    messages, aborted = 0, False
    for report in outcome.reports:
        for directive in report.directives:
            match directive:
                case EmitEvent(key, label, detail):
                    live.emit(ActivityType.PLUGIN_STATUS, plugin=report.plugin, key=key, label=label, detail=detail)
                case EnqueueMessages():
                    messages += sum(one.role in (Role.USER, Role.SYSTEM) for one in directive.messages)
                case AbortTurn():
                    aborted = True
    if messages and not aborted and effect.hook is Hook.AT_CHECKPOINT:
        live.emit(ActivityType.QUEUED_MESSAGES_COMMITTED, checkpoint=effect.checkpoint, count=messages)
    live.flush()
