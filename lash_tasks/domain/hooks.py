"""What the hooks of plugins ask for, what they are told, and what is recorded of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.messages import Part, Role
from lash_tasks.domain.turns import ToolCallRecord, TurnIssue, TurnOutcome
from lash_tasks.domain.usage import TokenUsage

# Directives: what a hook may return.


@dataclass(frozen=True, slots=True)
class AbortTurn:
    """The turn stops here with `plugin_abort`, and its first issue has this code and message.

    From `before_turn` the input leaves no message in the history. Of several aborts of one phase the last counts.
    `after_turn` may not abort.
    """

    code: str
    message: str
    type: Literal["abort_turn"] = "abort_turn"


@dataclass(frozen=True, slots=True)
class PluginMessage:
    """A message that a plugin puts into the session. Those of other roles than user and system are left out."""

    text: str
    role: Role = Role.USER


@dataclass(frozen=True, slots=True)
class EnqueueMessages:
    """Put these messages at the end of what was said. `transient` ones the model sees in this turn and nobody later."""

    messages: tuple[PluginMessage, ...]
    transient: bool = False
    type: Literal["enqueue_messages"] = "enqueue_messages"


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Show a live event `plugin_status` to whoever follows the session. Best effort, as all live events."""

    key: str
    label: str
    detail: JsonValue = None
    type: Literal["emit_event"] = "emit_event"


Directive = Annotated[AbortTurn | EnqueueMessages | EmitEvent, Field(discriminator="type")]


# What came of a phase: recorded, so that a replay runs no hook again.


@dataclass(frozen=True, slots=True)
class PluginReport:
    """What one plugin's hook asked for; with `changed`, its state is another one now."""

    plugin: str
    directives: tuple[Directive, ...] = ()
    changed: bool = False
    state: JsonValue = None


@dataclass(frozen=True, slots=True)
class HookFailure:
    """A hook that raised, was out of time, or asked for what it may not."""

    plugin: str
    message: str


@dataclass(frozen=True, slots=True)
class Kept:
    """Messages of the prompt as they were: `count` of them from place `first` on."""

    first: int
    count: int
    type: Literal["kept"] = "kept"


@dataclass(frozen=True, slots=True)
class Placed:
    """A message that a transform wrote."""

    role: Role
    parts: tuple[Part, ...]
    type: Literal["placed"] = "placed"


PromptPiece = Annotated[Kept | Placed, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A transformed prompt, written down as its difference to the one before."""

    pieces: tuple[PromptPiece, ...]
    contributions: tuple[str, ...] = ()
    """Texts that follow the agent's instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSummary:
    """A turn that has its end and is not committed yet."""

    outcome: TurnOutcome
    text: str
    tool_calls: tuple[ToolCallRecord, ...]
    token_usage: TokenUsage
    errors: tuple[TurnIssue, ...]
