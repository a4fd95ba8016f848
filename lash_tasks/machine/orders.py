"""The orders of the turn machine: what each asks for, under which key, and how a turn ends."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.domain.codec import digest, to_json
from lash_tasks.domain.ids import ReplayKey, effect_key
from lash_tasks.domain.journal import EffectKind, Envelope
from lash_tasks.domain.messages import Message
from lash_tasks.domain.turns import IssueKind, TurnIssue
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.effects import FINISH, CallModel, CheckOutput, CheckpointKind, Effect, TakeCheckpoint
from lash_tasks.machine.projection import project
from lash_tasks.machine.state import Step, Turn


def call_model(turn: Turn, *, sync: bool = True, instead_of: str | None = None) -> Step:
    """The next model call. Each iteration has a place for a sync before it, so effect ids follow effects §11.3."""
    if sync:
        turn = replace(turn, next_effect_id=turn.next_effect_id + 1)
    effect_id, key = next_key(turn, EffectKind.LLM_CALL)
    instructions = "\n\n".join((turn.instructions, *turn.contributions))
    request = project(turn.agent, instructions, (turn.view or turn.history).grown(turn.added[turn.viewed :]))
    model = turn.agent.models[turn.models_failed]
    # History before the turn is fixed by the base revision, so the envelope stays small whatever its length.
    envelope = Envelope(
        EffectKind.LLM_CALL,
        {
            "model": model,
            "base_revision": turn.intent.base_revision,
            "system": digest(request.system)[:16],
            "tools": digest([spec.name for spec in request.tools])[:16],
            "messages": [digest(to_json(Message, message))[:16] for message in turn.added],
        },
    )
    return order(turn, CallModel(effect_id, key, envelope, turn.iteration, request, model, instead_of))


def check_output(turn: Turn, text: str) -> Step:
    effect_id, key = next_key(turn, EffectKind.OUTPUT_CHECK)
    envelope = Envelope(EffectKind.OUTPUT_CHECK, {"agent_ref": turn.intent.agent_ref, "text": digest(text)[:16]})
    return order(turn, CheckOutput(effect_id, key, envelope, turn.iteration, text))


def take_checkpoint(turn: Turn, kind: CheckpointKind) -> Step:
    effect_id, key = next_key(turn, EffectKind.CHECKPOINT)
    envelope = Envelope(EffectKind.CHECKPOINT, {"checkpoint": kind.value})
    return order(turn, TakeCheckpoint(effect_id, key, envelope, turn.iteration, kind))


def end(turn: Turn) -> Step:
    return replace(turn, waiting=FINISH), FINISH


def order(turn: Turn, effect: Effect) -> Step:
    return replace(turn, waiting=effect, next_effect_id=turn.next_effect_id + 1), effect


def next_key(turn: Turn, kind: EffectKind) -> tuple[int, ReplayKey]:
    intent, effect_id = turn.intent, turn.next_effect_id
    key = effect_key(intent.session_id, intent.turn_id, intent.turn_index, turn.iteration, kind.value, effect_id)
    return effect_id, key


def issue_of(kind: IssueKind, code: ErrorCode, message: str) -> TurnIssue:
    return TurnIssue(kind, code.value, message)
