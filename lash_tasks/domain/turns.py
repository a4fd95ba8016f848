"""Turns: their states, how they end, and the assembled result that callers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, TypeVar, overload

from pydantic import Field, TypeAdapter

from lash_tasks.domain.codec import JsonValue, canonical
from lash_tasks.domain.frames import FrameSwitch
from lash_tasks.domain.ids import BatchId, CallId, SessionId, TurnId
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.errors import EmptyAgentFrameRun

T = TypeVar("T")

MAX_ATTEMPTS = 5
"""Openings without progress after which a turn is ended and its input dead-lettered."""


class TurnStatus(StrEnum):
    RUNNING = "running"
    COMMITTED = "committed"


TURN_TRANSITIONS: Mapping[TurnStatus, frozenset[TurnStatus]] = {
    TurnStatus.RUNNING: frozenset({TurnStatus.COMMITTED}),
    TurnStatus.COMMITTED: frozenset(),
}


class StopKind(StrEnum):
    """Why a turn stopped without an answer (effects §18.1)."""

    CANCELLED = "cancelled"
    INCOMPLETE = "incomplete"
    MAX_TURNS = "max_turns"
    TOOL_FAILURE = "tool_failure"
    PROVIDER_ERROR = "provider_error"
    RUNTIME_ERROR = "runtime_error"
    INVALID_INPUT = "invalid_input"
    PLUGIN_ABORT = "plugin_abort"


@dataclass(frozen=True, slots=True)
class AssistantMessageFinish:
    text: str
    type: Literal["assistant_message"] = "assistant_message"


@dataclass(frozen=True, slots=True)
class Finished:
    finish: AssistantMessageFinish
    type: Literal["finished"] = "finished"


@dataclass(frozen=True, slots=True)
class TurnStop:
    type: StopKind


@dataclass(frozen=True, slots=True)
class Stopped:
    stop: TurnStop
    type: Literal["stopped"] = "stopped"


@dataclass(frozen=True, slots=True)
class AgentFrameSwitch:
    """The turn's run goes on with `task` in the frame `frame_id`, in a turn that follows."""

    frame_id: str
    task: str
    type: Literal["agent_frame_switch"] = "agent_frame_switch"


TurnOutcome = Annotated[Finished | Stopped | AgentFrameSwitch, Field(discriminator="type")]


def outcome_kind(outcome: TurnOutcome) -> str:
    """One word for listings: `finished`, `agent_frame_switch`, or why the turn stopped."""
    return outcome.stop.type.value if isinstance(outcome, Stopped) else outcome.type


def finished(text: str) -> Finished:
    return Finished(AssistantMessageFinish(text))


def stopped(kind: StopKind) -> Stopped:
    return Stopped(TurnStop(kind))


class OutputState(StrEnum):
    USABLE = "usable"
    EMPTY_OUTPUT = "empty_output"
    TRACEBACK_ONLY = "traceback_only"
    RECOVERED_FROM_ERROR = "recovered_from_error"


@dataclass(frozen=True, slots=True)
class AssistantOutput:
    safe_text: str
    raw_text: str
    state: OutputState


class FailureClass(StrEnum):
    INVALID_REQUEST = "invalid_request"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    EXECUTION = "execution"
    EXTERNAL = "external"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ToolFailure:
    kind: FailureClass
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What one tool call came to; recorded, shown to the model, kept in the turn's result."""

    status: ToolStatus
    value: JsonValue = None
    failure: ToolFailure | None = None
    duration_ms: int = 0
    control: FrameSwitch | None = None
    """What the call asks of the runtime beside its result; None of nearly every one."""

    def model_text(self) -> str:
        """What the model reads (effects §15.1)."""
        match self.status:
            case ToolStatus.SUCCESS:
                return self.value if isinstance(self.value, str) else canonical(self.value).decode("utf-8", "replace")
            case ToolStatus.FAILURE:
                return f"[Tool execution failed]\n{self.failure.message if self.failure else ''}"
            case ToolStatus.CANCELLED:
                return f"[Tool execution cancelled]\n{self.failure.message if self.failure else ''}"


def tool_failure(kind: FailureClass, code: str, message: str, duration_ms: int = 0) -> ToolOutcome:
    return ToolOutcome(ToolStatus.FAILURE, None, ToolFailure(kind, code, message), duration_ms)


CALL_WITHOUT_RESULT = "the turn ended before this call had a result; whether it took effect is unknown"


def tool_cancelled(message: str = CALL_WITHOUT_RESULT) -> ToolOutcome:
    return ToolOutcome(ToolStatus.CANCELLED, None, ToolFailure(FailureClass.EXECUTION, "cancelled", message))


@dataclass(frozen=True, slots=True)
class ToolCallRecord:
    call_id: CallId
    tool: str
    arguments: JsonValue
    """The arguments as an object; the model's own text where it was not one."""
    outcome: ToolOutcome


class IssueKind(StrEnum):
    LLM_PROVIDER = "llm_provider"
    RUNTIME = "runtime"
    TOOL = "tool"
    INPUT_VALIDATION = "input_validation"
    PLUGIN = "plugin"


@dataclass(frozen=True, slots=True)
class TurnIssue:
    """A problem that the turn met, in the words of an on-call engineer; never a secret."""

    kind: IssueKind
    code: str
    message: str
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutionSummary:
    had_tool_calls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledTurn:
    """The result of a committed turn, as `result()`, `turns list` and `lash.send`'s callers read it.

    `text` is `assistant_output.safe_text`; `ok` says whether the turn finished. Times are epoch milliseconds.
    """

    session_id: SessionId
    turn_id: TurnId
    turn_index: int
    status: TurnStatus
    outcome: TurnOutcome
    assistant_output: AssistantOutput
    execution: ExecutionSummary
    token_usage: TokenUsage
    tool_calls: tuple[ToolCallRecord, ...]
    errors: tuple[TurnIssue, ...]
    attempt: int = 1
    committed_at_ms: int | None = None
    output: JsonValue = None
    """The answer as a JSON value, where the agent has an `output_type` and the turn finished."""

    @property
    def ok(self) -> bool:
        return isinstance(self.outcome, Finished)

    @property
    def text(self) -> str:
        return self.assistant_output.safe_text

    @overload
    def output_as(self, kind: type[T]) -> T: ...
    @overload
    def output_as(self, kind: object) -> JsonValue: ...
    def output_as(self, kind: JsonValue) -> JsonValue:
        """`output` as an instance of `kind`, as pydantic reads it; ValueError if it does not fit or there is none."""
        if not self.ok:
            raise ValueError("a turn that did not finish has no output; look at outcome and errors")
        return TypeAdapter[JsonValue](kind).validate_json(canonical(self.output))


@dataclass(frozen=True, slots=True)
class AgentFrameRun:
    """The turns that answer one input, in order: all but the last ended with a switch to another frame."""

    turns: tuple[AssembledTurn, ...]

    @property
    def final_turn(self) -> AssembledTurn:
        """The turn that answers; EmptyAgentFrameRun if there is none."""
        if not self.turns:
            raise EmptyAgentFrameRun
        return self.turns[-1]

    @property
    def frame_switch_count(self) -> int:
        return sum(isinstance(turn.outcome, AgentFrameSwitch) for turn in self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnIntent:
    """What a turn is pinned to from its first opening on (design §4)."""

    session_id: SessionId
    turn_id: TurnId
    turn_index: int
    base_revision: int
    batch_ids: tuple[BatchId, ...]
    agent: str
    agent_ref: str
    machine_version: int
    admitted_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContext:
    """The turn that instructions are rendered for, and that a model is called for."""

    session_id: SessionId
    turn_id: TurnId
    turn_index: int
    agent: str
    context: JsonValue
    """What the caller sent as `context`; None if nothing."""
    admitted_at_ms: int
    """When the turn began, epoch milliseconds: the time to show to a model, the same on every attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A turn as it stands in SQL; `result` is there once it is committed."""

    session_id: SessionId
    turn_id: TurnId
    turn_index: int
    status: TurnStatus
    agent: str
    agent_ref: str
    machine_version: int
    attempt: int
    holder: str | None
    admitted_at_ms: int
    committed_at_ms: int | None
    result: AssembledTurn | None
