"""A turn between two facts, and what it adds to the transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.ids import BatchId, CallId, message_id
from lash_tasks.domain.messages import Message, Origin, Part, ReasoningPart, Role, TextPart, ToolResultPart
from lash_tasks.domain.turns import ToolCallRecord, ToolOutcome, TurnIntent, TurnIssue, TurnOutcome, tool_cancelled
from lash_tasks.domain.usage import UsageEntry
from lash_tasks.machine.effects import FINISH, Effect, RunTools
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.requests import ModelResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn between two facts. Never stored: a resume rebuilds it from the journal."""

    intent: TurnIntent
    agent: AgentSnapshot
    history: Transcript
    """What was said before this turn."""
    instructions: str = ""
    added: tuple[Message, ...] = ()
    """What this turn adds to the transcript."""
    iteration: int = 0
    next_effect_id: int = 1
    usage: tuple[UsageEntry, ...] = ()
    calls: tuple[ToolCallRecord, ...] = ()
    issues: tuple[TurnIssue, ...] = ()
    joined: tuple[BatchId, ...] = ()
    overflowed: bool = False
    """A model has refused the prompt as too long for it."""
    models_failed: int = 0
    """How many of the agent's models could not answer. None of them is asked again in this turn."""
    corrections: int = 0
    """How often the model was told in a row that its answer does not fit."""
    output: JsonValue = None
    """The answer as a JSON value, once it fits."""
    waiting: Effect = FINISH
    """The order whose fact is awaited."""
    view: Transcript | None = None
    """What plugins made of the history and the first `viewed` messages of this turn; None if they changed nothing."""
    viewed: int = 0
    contributions: tuple[str, ...] = ()
    """Texts of plugins that follow the instructions."""
    delivered: bool = False
    """Plugins have put messages into the turn at the checkpoint that is being taken."""
    states: tuple[tuple[str, JsonValue], ...] = ()
    """States that plugins have now and did not have before the turn, by plugin."""
    before_finalizing: Turn | None = None
    """The finished turn before `after_turn` hooks saw it: where it goes on if input arrives before its commit."""
    held: TurnOutcome | None = None
    """How the turn ends if nothing joins at the checkpoint."""
    outcome: TurnOutcome | None = None


Step = tuple[Turn, Effect]
"""A turn and the order that it now waits for."""


def added(turn: Turn, role: Role, parts: tuple[Part, ...], origin: Origin | None = None) -> Turn:
    message = Message(message_id(turn.intent.turn_index, len(turn.added)), role, parts, origin)
    return replace(turn, added=(*turn.added, message))


def added_results(turn: Turn, run: RunTools, outcomes: Sequence[ToolOutcome | None]) -> Turn:
    settled = [outcome or tool_cancelled() for outcome in outcomes]
    parts = tuple(
        _result_part(call.call_id, call.tool, outcome) for call, outcome in zip(run.calls, settled, strict=True)
    )
    records = tuple(
        ToolCallRecord(call.call_id, call.tool, call.arguments, outcome)
        for call, outcome in zip(run.calls, settled, strict=True)
    )
    return added(replace(turn, calls=(*turn.calls, *records)), Role.USER, parts)


def _result_part(call_id: CallId, tool: str, outcome: ToolOutcome) -> ToolResultPart:
    return ToolResultPart(call_id, tool, outcome.model_text(), outcome.status)


def worth_keeping(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Without blank text, and without blank reasoning that cannot be sent back."""
    return tuple(
        part
        for part in parts
        if not (isinstance(part, TextPart) and not part.text.strip())
        and not (isinstance(part, ReasoningPart) and not part.text.strip() and part.replay is None)
    )


def ends_with_tool_results(turn: Turn) -> bool:
    return bool(turn.added) and any(isinstance(part, ToolResultPart) for part in turn.added[-1].parts)


def joined_text(response: ModelResponse) -> str:
    """The text parts that are not blank, with at least one blank line between two of them (effects §12)."""
    text = ""
    for part in response.parts:
        if isinstance(part, TextPart) and part.text.strip():
            newlines = len(text) - len(text.rstrip("\n")) + len(part.text) - len(part.text.lstrip("\n"))
            text += "\n" * max(0, 2 - newlines) * bool(text) + part.text
    return text
