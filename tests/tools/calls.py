"""Calling a tool as the runtime does, and clocks on which time passes when the test says so."""

from __future__ import annotations

import threading

from lash_tasks.clock import SystemClock
from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.ids import CallId, SessionId, TurnId
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import ToolFailure, ToolOutcome
from lash_tasks.ports import Interrupt, ToolInvocation
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.dispatch import ToolDispatcher

PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""
NEVER = 3 * PATIENCE
"""A time limit of a call that no test reaches."""


def agents_with(*tools: Tool[..., object]) -> dict[str, Agent]:
    return {"support": Agent("support", "scripted:x", tools=tools)}


def invocation(
    name: str, arguments: JsonObject | None = None, *, timeout: float = NEVER, context: JsonValue = None
) -> ToolInvocation:
    return ToolInvocation(
        session_id=SessionId("s1"),
        turn_id=TurnId("t1"),
        call_id=CallId("c1"),
        tool=name,
        arguments=arguments or {},
        idempotency_key="lash-key",
        context=context,
        timeout_seconds=timeout,
    )


class Calls:
    """A dispatcher, called in few words."""

    def __init__(self, dispatcher: ToolDispatcher) -> None:
        self.dispatcher = dispatcher

    def outcome(
        self,
        name: str,
        arguments: JsonObject | None = None,
        *,
        timeout: float = NEVER,
        context: JsonValue = None,
        interrupt: Interrupt | None = None,
    ) -> ToolOutcome:
        call = invocation(name, arguments, timeout=timeout, context=context)
        return self.dispatcher.run("support", call, interrupt or TurnInterrupt(SystemClock()))

    def value(self, name: str, arguments: JsonObject | None = None, *, context: JsonValue = None) -> JsonValue:
        outcome = self.outcome(name, arguments, context=context)
        assert outcome.status is ToolStatus.SUCCESS, outcome.failure
        return outcome.value

    def failure(self, name: str, arguments: JsonObject | None = None, *, timeout: float = NEVER) -> ToolFailure:
        outcome = self.outcome(name, arguments, timeout=timeout)
        assert outcome.status is ToolStatus.FAILURE
        assert outcome.failure is not None
        return outcome.failure


class ExpiresAfter(SystemClock):
    """Every wait ends, its time over, as soon as `event` is set: no test waits for a real timeout."""

    def __init__(self, event: threading.Event) -> None:
        self._moment = event

    def wait(self, event: threading.Event, seconds: float) -> bool:
        assert self._moment.wait(PATIENCE)
        return event.is_set()


class Elapses(SystemClock):
    """A monotonic clock that goes on by `step` seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self._step = step
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += self._step
        return self._now
