"""Where plugins come in: the phases of a turn that call hooks, and what becomes of what hooks ask for.

A turn of an agent without such hooks passes here unchanged, with the same orders, effect ids and keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lash_tasks.domain.codec import digest, to_json
from lash_tasks.domain.hooks import AbortTurn, Directive, EnqueueMessages
from lash_tasks.domain.journal import EffectKind, Envelope
from lash_tasks.domain.messages import Message, Origin, Role, TextPart
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.turns import IssueKind, StopKind, TurnIssue, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.assembly import summarize
from lash_tasks.machine.effects import CheckpointKind, HooksReturned, RunHooks
from lash_tasks.machine.orders import end, issue_of, next_key, order, take_checkpoint
from lash_tasks.machine.prepared import read_back
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.state import Step, Turn, added

PHASES: Mapping[Hook, tuple[EffectKind, ErrorCode]] = {
    Hook.PREPARE_CONTEXT: (EffectKind.CONTEXT_TRANSFORM, ErrorCode.CONTEXT_PREPARE_TURN),
    Hook.BEFORE_TURN: (EffectKind.BEFORE_TURN_HOOKS, ErrorCode.PLUGIN_PREPARE_TURN),
    Hook.AT_CHECKPOINT: (EffectKind.CHECKPOINT_HOOKS, ErrorCode.PLUGIN_CHECKPOINT),
    Hook.AFTER_TURN: (EffectKind.AFTER_TURN_HOOKS, ErrorCode.PLUGIN_FINALIZE_TURN),
}
"""The hooks that are part of a turn: how their effect is called, and the code of their failure."""


def checkpoint(turn: Turn, kind: CheckpointKind) -> Step:
    """The next checkpoint. Hooks come before the claim, so that an abort never holds one."""
    return run_hooks(turn, Hook.AT_CHECKPOINT, kind) or take_checkpoint(turn, kind)


def stop(turn: Turn, kind: StopKind, issue: TurnIssue | None = None) -> Step:
    """End the turn without an answer."""
    issues = turn.issues if issue is None else (*turn.issues, issue)
    return finish(replace(turn, issues=issues, outcome=stopped(kind)))


def finish(turn: Turn) -> Step:
    """The turn has its outcome: plugins see it once more, then it ends."""
    return run_hooks(turn, Hook.AFTER_TURN) or end(turn)


def run_hooks(turn: Turn, hook: Hook, kind: CheckpointKind | None = None) -> Step | None:
    """The order to call `hook`; None if no plugin of the agent has it."""
    plugins = turn.agent.with_hook(hook)
    if not plugins:
        return None
    effect_kind, _ = PHASES[hook]
    effect_id, key = next_key(turn, effect_kind)
    request = {
        "plugins": [plugin.id for plugin in plugins],
        "messages": [digest(to_json(Message, message))[:16] for message in turn.added],
        **({"checkpoint": kind.value} if kind is not None else {}),
    }
    effect = RunHooks(
        effect_id=effect_id,
        key=key,
        envelope=Envelope(effect_kind, request),
        iteration=turn.iteration,
        hook=hook,
        plugins=plugins,
        added=turn.added,
        states=turn.states,
        prompt=turn.history.grown(turn.added).messages if hook is Hook.PREPARE_CONTEXT else (),
        checkpoint=kind,
        summary=summarize(turn) if hook is Hook.AFTER_TURN else None,
    )
    return order(replace(turn, before_finalizing=turn) if hook is Hook.AFTER_TURN else turn, effect)


def after_hooks(turn: Turn, run: RunHooks, reply: HooksReturned) -> Step | Turn:
    """The turn with what the plugins asked for; a step if that is its end."""
    _, code = PHASES[run.hook]
    if reply.failure is not None:
        problem = f"{run.hook} of the plugin {reply.failure.plugin!r}: {reply.failure.message}"
        return _end(turn, run, StopKind.RUNTIME_ERROR, issue_of(IssueKind.PLUGIN, code, problem))
    changed = {report.plugin: report.state for report in reply.reports if report.changed}
    turn = replace(turn, states=tuple({**dict(turn.states), **changed}.items()))
    aborts = [(plugin, one) for plugin, one in _directives(reply) if isinstance(one, AbortTurn)]
    if aborts:
        plugin, abort = aborts[-1]
        if run.hook is Hook.AFTER_TURN:
            problem = f"{run.hook} of the plugin {plugin!r}: a turn that has ended cannot be aborted"
            return _end(turn, run, StopKind.RUNTIME_ERROR, issue_of(IssueKind.PLUGIN, code, problem))
        if run.hook is Hook.BEFORE_TURN:
            turn = replace(turn, added=())
        return _end(turn, run, StopKind.PLUGIN_ABORT, TurnIssue(IssueKind.PLUGIN, abort.code, abort.message))
    before = len(turn.added)
    for plugin, directive in _directives(reply):
        if isinstance(directive, EnqueueMessages):
            turn = _with_messages(turn, plugin, directive)
    if reply.prompt is not None:
        view = Transcript(tuple(read_back(run.prompt, reply.prompt)))
        turn = replace(turn, view=view, viewed=before, contributions=reply.prompt.contributions)
    return replace(turn, delivered=run.checkpoint is not None and len(turn.added) > before)


def _end(turn: Turn, run: RunHooks, kind: StopKind, issue: TurnIssue) -> Step:
    """A turn that ends before its instructions are there is not shown to `after_turn`."""
    if run.hook is Hook.AT_CHECKPOINT:
        return stop(turn, kind, issue)
    return end(replace(turn, issues=(*turn.issues, issue), outcome=stopped(kind)))


def _directives(reply: HooksReturned) -> Iterator[tuple[str, Directive]]:
    return ((report.plugin, directive) for report in reply.reports for directive in report.directives)


def _with_messages(turn: Turn, plugin: str, directive: EnqueueMessages) -> Turn:
    for message in directive.messages:
        if message.role not in (Role.USER, Role.SYSTEM):
            continue
        origin = Origin("plugin", plugin=plugin, transient=True if directive.transient else None)
        turn = added(turn, message.role, (TextPart(message.text),), origin)
    return turn
