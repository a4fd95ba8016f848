"""What a tool learns about the call that it serves."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.ids import CallId, SessionId, TurnId


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """One attempt of one tool call. A parameter annotated with it is filled in and hidden from the model.

    A test that calls a tool directly makes one itself.
    """

    session_id: SessionId
    turn_id: TurnId
    call_id: CallId
    tool: str
    idempotency_key: str
    """The same for every attempt of this call."""
    context: JsonValue = None
    """What the caller sent as `context`; None if nothing. The model never sees it."""
    deps: object = None
    """The value of the application's `deps` context manager, entered for this attempt alone."""
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more (timeout, cancel, shutdown): a long function should return."""
        return self._cancelled.is_set()
