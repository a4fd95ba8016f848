"""What the machine asks for (orders) and what it is told (facts). Nothing else crosses between core and shell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.hooks import HookFailure, PluginReport, PreparedPrompt, TurnSummary
from lash_tasks.domain.ids import CallId, ReplayKey
from lash_tasks.domain.journal import Envelope
from lash_tasks.domain.messages import Message
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.domain.queue import JoinedInput
from lash_tasks.domain.turns import StopKind, ToolOutcome, TurnIssue
from lash_tasks.machine.requests import ModelMessage, ModelOutcome, ModelRequest


class CheckpointKind(StrEnum):
    AFTER_WORK = "after_work"
    """Tool results are in, the next model call has not begun."""
    BEFORE_COMPLETION = "before_completion"
    """The model has answered, the turn has not ended."""


# Orders: each but Finish expects one fact in reply.


@dataclass(frozen=True, slots=True)
class RenderInstructions:
    """Call the agent's instructions function; its text is recorded, so that a replay asks the same."""

    effect_id: int
    key: ReplayKey
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class CallModel:
    effect_id: int
    key: ReplayKey
    envelope: Envelope
    iteration: int
    request: ModelRequest
    model: str
    """`provider:model`."""
    instead_of: str | None = None
    """The model that has just failed to answer the same request."""


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """Ask the application's code whether the answer `text` fits the agent's output type."""

    effect_id: int
    key: ReplayKey
    envelope: Envelope
    iteration: int
    text: str


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call of a tool round. `settled` is its outcome when it needs no run (unknown tool, bad arguments)."""

    index: int
    call_id: CallId
    tool: str
    arguments: JsonValue
    """An object; in a call that is settled because they are none, the model's own text."""
    key: ReplayKey
    idempotency_key: str
    envelope: Envelope
    settled: ToolOutcome | None = None


@dataclass(frozen=True, slots=True)
class RunTools:
    """Run the calls of one round, concurrently if possible; each is recorded by itself."""

    effect_id: int
    key: ReplayKey
    iteration: int
    calls: tuple[PlannedCall, ...]


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    effect_id: int
    key: ReplayKey
    envelope: Envelope
    iteration: int
    kind: CheckpointKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHooks:
    """Call one hook of all plugins that have it, one after another; they are recorded together."""

    effect_id: int
    key: ReplayKey
    envelope: Envelope
    iteration: int
    hook: Hook
    plugins: tuple[PluginSpec, ...]
    added: tuple[Message, ...]
    """What the turn has added to the transcript so far."""
    states: tuple[tuple[str, JsonValue], ...]
    """States that plugins have in this turn and did not have before it, by plugin."""
    prompt: tuple[ModelMessage, ...] = ()
    """Before `prepare_context`: all that the model would see."""
    checkpoint: CheckpointKind | None = None
    summary: TurnSummary | None = None
    """At `after_turn`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The turn is over: commit it."""


FINISH = Finish()

Effect = RenderInstructions | CallModel | CheckOutput | RunTools | TakeCheckpoint | RunHooks | Finish


# Facts.


@dataclass(frozen=True, slots=True)
class InstructionsRendered:
    """The text, or why there is none."""

    text: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelReturned:
    outcome: ModelOutcome


@dataclass(frozen=True, slots=True)
class OutputChecked:
    """The answer as a JSON value, or in `problem` what is wrong with it, in words for the model."""

    value: JsonValue = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ToolsReturned:
    """One outcome per planned call, in their order."""

    outcomes: tuple[ToolOutcome, ...]


@dataclass(frozen=True, slots=True)
class CheckpointPassed:
    """What joined the turn; usually nothing."""

    joined: tuple[JoinedInput, ...] = ()


@dataclass(frozen=True, slots=True)
class HooksReturned:
    """What the plugins asked for, in the order of their calls; after a failure the ones behind it were not called."""

    reports: tuple[PluginReport, ...] = ()
    failure: HookFailure | None = None
    prompt: PreparedPrompt | None = None
    """After `prepare_context`, if it changed anything."""


@dataclass(frozen=True, slots=True)
class TurnHalted:
    """The shell ends the turn here: cancelled, out of time, out of attempts, or a replay that does not match.

    `outcomes` are the calls of the round in flight that are recorded, by index; they stay in the history.
    """

    kind: StopKind
    issue: TurnIssue | None = None
    outcomes: tuple[tuple[int, ToolOutcome], ...] = ()


Reply = (
    InstructionsRendered | ModelReturned | OutputChecked | ToolsReturned | CheckpointPassed | HooksReturned | TurnHalted
)
