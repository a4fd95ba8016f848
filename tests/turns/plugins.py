"""Plugins for whole turns: they do what a test says, and remember what they were called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.hooks import TurnSummary
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.turns import AssembledTurn
from lash_tasks.machine.prepared import PreparedContext
from lash_tasks.plugins.plugin import Directives, HookContext, Plugin

Does = Callable[[HookContext], Directives]


def nothing(ctx: HookContext) -> Directives:
    return None


@dataclass
class Calls:
    """What plugins were called for, and with, in order."""

    hooks: list[tuple[str, Hook]] = field(default_factory=list)
    contexts: list[HookContext] = field(default_factory=list)
    summaries: list[TurnSummary] = field(default_factory=list)
    turns: list[AssembledTurn] = field(default_factory=list)

    def of(self, hook: Hook) -> int:
        return sum(one is hook for _, one in self.hooks)


def plugin(
    does: Mapping[Hook, Does] | None = None, calls: Calls | None = None, *, id_: str = "watch", version_: str = "1"
) -> Plugin:
    """A plugin with all hooks of a turn; each remembers its call, and does what is asked of it."""
    wanted, seen = does or {}, calls or Calls()

    def called(hook: Hook, ctx: HookContext) -> Directives:
        seen.hooks.append((id_, hook))
        seen.contexts.append(ctx)
        return wanted.get(hook, nothing)(ctx)

    class Watch(Plugin):
        id = id_
        version = version_

        def prepare_context(self, ctx: HookContext, prepared: PreparedContext) -> PreparedContext:
            called(Hook.PREPARE_CONTEXT, ctx)
            return prepared

        def before_turn(self, ctx: HookContext) -> Directives:
            return called(Hook.BEFORE_TURN, ctx)

        def at_checkpoint(self, ctx: HookContext) -> Directives:
            return called(Hook.AT_CHECKPOINT, ctx)

        def after_turn(self, ctx: HookContext, summary: TurnSummary) -> Directives:
            seen.summaries.append(summary)
            return called(Hook.AFTER_TURN, ctx)

        def turn_persisted(self, ctx: HookContext, turn: AssembledTurn) -> None:
            seen.turns.append(turn)
            called(Hook.TURN_PERSISTED, ctx)

    return Watch()


def raises(ctx: HookContext) -> Directives:
    raise ValueError("no")


def remembers(value: JsonValue) -> Does:
    def does(ctx: HookContext) -> Directives:
        ctx.memory = value
        return None

    return does
