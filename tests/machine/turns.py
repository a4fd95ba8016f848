"""Small words for machine tests: agents, intents, replies, and a turn played over a list of replies."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from lash_tasks.domain.agents import AgentSnapshot, ToolSpec
from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.ids import BatchId, CallId, SessionId, TurnId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolStatus
from lash_tasks.domain.queue import JoinedInput
from lash_tasks.domain.turns import StopKind, ToolOutcome, TurnIntent
from lash_tasks.domain.usage import NO_USAGE, TokenUsage
from lash_tasks.machine.effects import (
    CheckpointPassed,
    Effect,
    ModelReturned,
    Reply,
    ToolsReturned,
    TurnHalted,
)
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.requests import ModelOutcome, ModelResponse, ResponsePart, TerminalReason
from lash_tasks.machine.state import Step, Turn
from lash_tasks.machine.turn import MACHINE_VERSION, advance, begin

AGENT = AgentSnapshot(
    name="support",
    model="scripted:x",
    instructions="Answer briefly.",
    tools=(ToolSpec("lookup", "Look up.", {"type": "object"}), ToolSpec("note", "Note.", {"type": "object"})),
)
RENDERED = replace(AGENT, instructions=None)
"""An agent whose instructions are a function of the turn."""

NOTHING = CheckpointPassed()
CANCELLED = TurnHalted(StopKind.CANCELLED)

E = TypeVar("E")


def intent(agent: AgentSnapshot = AGENT, *, turn_index: int = 1, batches: int = 1) -> TurnIntent:
    return TurnIntent(
        session_id=SessionId("s1"),
        turn_id=TurnId("t1"),
        turn_index=turn_index,
        base_revision=4,
        batch_ids=tuple(BatchId(f"b{number}") for number in range(batches)),
        agent=agent.name,
        agent_ref=agent.ref(),
        machine_version=MACHINE_VERSION,
        admitted_at_ms=1_700_000_000_000,
    )


def start(*inputs: str, agent: AgentSnapshot = AGENT, history: tuple[Message, ...] = (), turn_index: int = 1) -> Step:
    """The first step of a turn over `inputs`, one text each."""
    texts = inputs or ("Hello",)
    pinned = intent(agent, turn_index=turn_index, batches=len(texts))
    return begin(pinned, agent, Transcript().grown(history), [queued(TextPart(text)) for text in texts])


def play(step: Step, *replies: Reply) -> tuple[Turn, list[Effect]]:
    """The turn after `replies`, and every order it gave, the first included."""
    turn, effect = step
    effects = [effect]
    for reply in replies:
        turn, effect = advance(turn, reply)
        effects.append(effect)
    return turn, effects


def last(kind: type[E], step: Step, *replies: Reply) -> E:
    """The order that follows `replies`, which is a `kind`."""
    _, effects = play(step, *replies)
    effect = effects[-1]
    assert isinstance(effect, kind), effect
    return effect


# Replies.


def answers(
    *parts: ResponsePart | str,
    usage: TokenUsage = NO_USAGE,
    reason: TerminalReason = TerminalReason.STOP,
    diagnostic: str | None = None,
) -> ModelReturned:
    """The model's answer; plain strings are text parts."""
    whole = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return ModelReturned(ModelOutcome(ModelResponse(whole, usage, reason, diagnostic)))


def call(call_id: str = "a", tool: str = "lookup", arguments: str = "{}") -> ToolCallPart:
    return ToolCallPart(CallId(call_id), tool, arguments)


def thought(text: str = "hm", *, sendable: bool = True) -> ReasoningPart:
    return ReasoningPart(text, {"signature": "x"} if sendable else None)


def success(value: JsonValue = "ok") -> ToolOutcome:
    return ToolOutcome(ToolStatus.SUCCESS, value)


def returned(*values: JsonValue) -> ToolsReturned:
    """One successful outcome per call."""
    return ToolsReturned(tuple(success(value) for value in values))


def joins(*texts: str) -> CheckpointPassed:
    """A checkpoint at which inputs joined: batches `j0`, `j1`, …"""
    return CheckpointPassed(
        tuple(
            JoinedInput(BatchId(f"j{number}"), f"key-{number}", queued(TextPart(text)))
            for number, text in enumerate(texts)
        )
    )


def queued(part: TextPart) -> QueuedInput:
    return QueuedInput("support", (part,))


def parts_of(message: Message) -> list[tuple[str, str]]:
    """Type and telling text of each part of a message."""
    return [(part.type, _telling(part)) for part in message.parts]


def _telling(part: Part) -> str:
    return part.call_id if isinstance(part, ToolCallPart) else getattr(part, "text", "")
