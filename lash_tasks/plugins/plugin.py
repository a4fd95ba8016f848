"""`Plugin`: what an application derives from to take part in turns, and what its hooks are told."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.hooks import Directive, TurnSummary
from lash_tasks.domain.ids import SessionId, TurnId, name_problem
from lash_tasks.domain.messages import Message
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.domain.turns import AssembledTurn
from lash_tasks.errors import ConfigurationError
from lash_tasks.machine.prepared import PreparedContext
from lash_tasks.plugins.signatures import takes

ALIKE = 0.9
"""From which likeness to a hook's name on another name is a slip of the pen."""

Directives = Directive | Sequence[Directive] | None
"""What a hook may return: one directive, several, or none."""


@dataclass(slots=True, kw_only=True)
class HookContext:
    """One call of one hook. A test that calls a hook directly makes one itself."""

    session_id: SessionId
    turn_id: TurnId
    turn_index: int
    agent: str
    context: JsonValue = None
    """What the caller sent as `context`; None if nothing."""
    admitted_at_ms: int = 0
    """When the turn began, epoch milliseconds: the same on every attempt."""
    idempotency_key: str = ""
    """The same for every attempt of this call."""
    messages: tuple[Message, ...] = ()
    """What the turn has added to the session so far, its input first."""
    checkpoint: str | None = None
    """At a checkpoint: `after_work` (tool results are in) or `before_completion` (the model has answered)."""
    deps: object = None
    """The value of the application's `deps` context manager, entered for this call alone."""
    memory: JsonValue = None
    """What the plugin remembers of the session: what `restore` made of its state. Change it, or set another one."""
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the hook any more (timeout, cancel, shutdown)."""
        return self._cancelled.is_set()


class Plugin:
    """Code that takes part in the turns of the agents that list it. Derive from it, and override the hooks you need.

    One object serves all sessions and threads of a process: what belongs to a session is kept in `ctx.memory`. Hooks
    may be `async`. They run as tools do, in a thread of their own with `deps`; what those of a turn ask for is
    recorded, so that a turn that is resumed does not run them again.
    """

    id: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    priority: ClassVar[int] = 0
    """Of `prepare_context`: the highest transforms first."""

    def prepare_context(self, ctx: HookContext, prepared: PreparedContext) -> PreparedContext:
        """Change what the model sees in this turn. The history stays as it is."""
        return prepared

    def before_turn(self, ctx: HookContext) -> Directives:
        """Before the first model call: it may abort the turn or add messages to it."""

    def at_checkpoint(self, ctx: HookContext) -> Directives:
        """Between two model calls (`after_work`), and when the model has answered (`before_completion`)."""

    def after_turn(self, ctx: HookContext, summary: TurnSummary) -> Directives:
        """The turn has its end, and is not committed yet: it may still add messages. Not called for a turn that was
        cancelled. If input joins a turn at its very end, called again when it ends with that."""

    def turn_persisted(self, ctx: HookContext, turn: AssembledTurn) -> None:
        """The turn is committed and its session free. Best effort: what it raises is logged, and a worker that dies
        here calls it no more."""

    def mutate_config(self, previous: JsonValue, proposed: JsonValue) -> JsonValue:
        """What the session says over its agent's policy is about to become `proposed`, an object as of `configure`;
        give back what it shall become."""
        return proposed

    def config_changed(self, previous: JsonValue, current: JsonValue) -> None:
        """The policy that the session's turns go by has changed and is committed; both are whole policies. Best effort:
        what it raises is logged."""

    def snapshot(self, memory: JsonValue) -> JsonValue:
        """`ctx.memory` as JSON, taken after each hook of a turn. Where it raises, the state before is kept."""
        return memory

    def restore(self, state: JsonValue) -> JsonValue:
        """`ctx.memory` from the JSON that `snapshot` gave; None if there is none yet."""
        return state


def spec_of(plugin: Plugin) -> PluginSpec:
    """How turns are pinned to a plugin. ConfigurationError says what to change."""
    for name in ("id", "version"):
        value: object = getattr(plugin, name)
        problem = name_problem(value) if isinstance(value, str) else "must be a string"
        if problem:
            raise ConfigurationError(f"plugin {type(plugin).__name__}: {name} {problem}")
    if isinstance(plugin.priority, bool) or not isinstance(plugin.priority, int):
        raise ConfigurationError(f"plugin {plugin.id!r}: priority must be a whole number, not {plugin.priority!r}")
    hooks = tuple(hook for hook in Hook if getattr(type(plugin), hook) is not getattr(Plugin, hook))
    return PluginSpec(plugin.id, plugin.version, hooks, plugin.priority)


def check_methods(plugin: Plugin) -> None:
    """Refuse a hook that cannot be called, and one that never would be: ConfigurationError says what to change."""
    for name in (*Hook, "snapshot", "restore"):
        method = getattr(plugin, name)
        parameters = list(inspect.signature(getattr(Plugin, name)).parameters)[1:]
        if not callable(method) or not takes(method, len(parameters)):
            raise ConfigurationError(
                f"plugin {plugin.id!r}: {name} must be a method of (self, {', '.join(parameters)})"
            )
    for name in dir(type(plugin)):
        if name.startswith("_") or hasattr(Plugin, name):
            continue
        for hook in get_close_matches(name, list(Hook), 1, ALIKE):
            raise ConfigurationError(
                f"plugin {plugin.id!r}: {name} is no hook, and would never be called; write {hook}, "
                f"or _{name} for a method of your own"
            )
