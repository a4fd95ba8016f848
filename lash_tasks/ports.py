"""What the runtime asks of the outside that is not a store: models, tools, doorbells, and the wish to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.hooks import HookFailure, PluginReport, TurnSummary
from lash_tasks.domain.ids import BlobRef, CallId, SessionId, TurnId
from lash_tasks.domain.messages import Message
from lash_tasks.domain.models import Limits
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.turns import AssembledTurn, ToolOutcome, TurnContext
from lash_tasks.machine.prepared import PreparedContext
from lash_tasks.machine.requests import ModelRequest, ModelResponse


class InterruptReason(StrEnum):
    """Why an effect in flight should stop."""

    CANCELLED = "cancelled"
    """Somebody cancelled the turn: it ends as cancelled."""
    DRAINING = "draining"
    """The worker goes away: the turn is given up unfinished and resumed elsewhere."""
    LOST = "lost"
    """Another worker has the session: write nothing more."""


class Interrupted(BaseException):
    """Unwinds an effect in flight. From BaseException because it must pass through users' `except Exception`."""

    def __init__(self, reason: InterruptReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Interrupt(Protocol):
    """A wish to stop that may come from another thread. Set at most once; the first reason stands."""

    @property
    def reason(self) -> InterruptReason | None: ...

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; return whether it is set. A retry's backoff waits here."""
        ...

    def check(self) -> None:
        """Raise Interrupted if it is set."""
        ...

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when it is set (at once if it is); returns a function that unsubscribes."""
        ...


class ModelStream(Protocol):
    """Where a provider reports while a call runs. Never raises; nothing committed depends on it."""

    def text(self, delta: str) -> None: ...

    def reasoning(self, delta: str) -> None: ...

    def reset(self) -> None:
        """A retry begins: what was streamed before does not count."""
        ...

    def retrying(self, *, attempt: int, max_attempts: int, wait_seconds: float, reason: str) -> None: ...


@dataclass(slots=True)
class Passed:
    """One attempt that was let through."""

    deadline: float
    """Until when it may take: the call's own, later by what it waited at the gate."""
    tokens: int | None = None
    """What it used, set by whoever knows; it then counts instead of an estimate."""


class Gate(Protocol):
    """Where the attempts of a model call wait for the limits of the provider."""

    def attempt(self, deadline: float, interrupt: Interrupt) -> AbstractContextManager[Passed]:
        """Entered once around every attempt.

        Raises ProviderFailure `provider_limit` when the turn's time ends at the gate, and Interrupted. A
        ProviderFailure that leaves it tells the gate when the provider wants to be asked again.
        """
        ...


class OpenGate:
    """The Gate of a provider without limits."""

    @contextmanager
    def attempt(self, deadline: float, interrupt: Interrupt) -> Iterator[Passed]:
        yield Passed(deadline)


OPEN_GATE = OpenGate()


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of a model, with everything live that the provider needs."""

    model: str
    """The part after `provider:`."""
    request: ModelRequest
    load_blob: Callable[[BlobRef], bytes]
    timeout_seconds: float
    """For the whole call, retries included."""
    idempotency_key: str
    turn: TurnContext
    """The turn that it is for: what a key that depends on the caller is chosen by."""
    gate: Gate = OPEN_GATE
    """Every attempt goes through it."""


class Provider(Protocol):
    """A model endpoint. One object serves many threads."""

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        """The model's final answer, after bounded retries.

        Raises ProviderFailure when the call failed for good, Interrupted (with the connection shut within a
        second) when `interrupt` is set.
        """
        ...

    def close(self) -> None: ...


class ProviderFailure(Exception):
    """A model call failed for good. `message` and `raw` hold no secret; it becomes part of the turn."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        kind: str = "unknown",
        retryable: bool = False,
        status: int | None = None,
        raw: str | None = None,
        retry_after: float | None = None,
        terminal_reason: str = "provider_error",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.kind = kind
        self.retryable = retryable
        self.status = status
        self.raw = raw
        self.retry_after = retry_after
        self.terminal_reason = terminal_reason


class Providers(Protocol):
    def get(self, name: str) -> Provider:
        """The provider registered under `name` (the part before the colon); ProviderFailure `llm_provider`."""
        ...

    def limits(self, name: str) -> Limits | None:
        """What all workers together may ask of `name`; None if it has no limits, or if there is no such provider."""
        ...


@dataclass(frozen=True, slots=True)
class ToolInvocation:
    """One attempt of one tool call."""

    session_id: SessionId
    turn_id: TurnId
    call_id: CallId
    tool: str
    arguments: JsonObject
    idempotency_key: str
    """The same for every attempt of this call."""
    context: JsonValue
    timeout_seconds: float


class ToolRunner(Protocol):
    """Calls a tool function. What goes wrong inside is an outcome, not an exception."""

    def run(self, agent: str, invocation: ToolInvocation, interrupt: Interrupt) -> ToolOutcome:
        """Raises only Interrupted. A result that JSON cannot carry, an exception and a timeout are failures."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HookInvocation:
    """One call of one hook of one plugin."""

    turn: TurnContext
    plugin: str
    hook: Hook
    idempotency_key: str
    """The same for every attempt of this call."""
    timeout_seconds: float
    messages: tuple[Message, ...] = ()
    checkpoint: str | None = None
    state: JsonValue = None
    """Of the plugin, in this session; None if there is none."""
    prepared: PreparedContext | None = None
    """For `prepare_context`."""
    summary: TurnSummary | None = None
    """For `after_turn`."""
    persisted: AssembledTurn | None = None
    """For `turn_persisted`."""


@dataclass(frozen=True, slots=True)
class HookReturned:
    report: PluginReport
    prepared: PreparedContext | None = None


class HookRunner(Protocol):
    """Calls a hook. What goes wrong inside is a HookFailure, not an exception."""

    def run(self, invocation: HookInvocation, interrupt: Interrupt) -> HookReturned | HookFailure:
        """Raises only Interrupted. What a hook asks for comes back as a replay will read it."""
        ...

    def mutate_config(
        self,
        agent: str,
        previous: JsonObject,
        proposed: JsonObject,
        accept: Callable[[JsonObject], JsonObject],
        interrupt: Interrupt,
    ) -> JsonObject:
        """`proposed` after each plugin of the agent has changed it. What fails, or is not accepted, is passed over."""
        ...

    def config_changed(self, agent: str, previous: JsonObject, current: JsonObject, interrupt: Interrupt) -> None:
        """Tell the agent's plugins. Nothing comes of what they raise."""
        ...


class Doorbell(Protocol):
    """Rings after a commit. A lost, doubled or late ring changes latency only; failures are logged, not raised."""

    def ring_session(self, session_id: SessionId) -> None: ...

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        """For a turn that somebody began and nobody drives."""
        ...
