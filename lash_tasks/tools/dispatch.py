"""Calling tools: threads, timeouts, interrupts, deps, and every ending of a call as an outcome."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from functools import partial

from lash_tasks.clock import Clock
from lash_tasks.domain.codec import scrub
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import FailureClass, ToolOutcome, tool_failure
from lash_tasks.errors import ErrorCode
from lash_tasks.ports import Interrupt, Interrupted, InterruptReason, ToolInvocation
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.arguments import InvalidArguments, validate_arguments
from lash_tasks.tools.attempt import Attempt
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.control import SwitchFrame, switch_outcome
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.loop import SharedLoop
from lash_tasks.tools.results import MAX_RESULT_BYTES, InvalidResult, result_json
from lash_tasks.tools.text import cut, describe
from lash_tasks.tools.threads import DaemonPool

log = logging.getLogger(__name__)

MAX_TOOL_THREADS = 256
"""Calls that may run at once in one process, those that were given up and still run included."""

OpenDeps = Callable[[], AbstractContextManager[object]]
"""The `deps` of an application: opened around every tool call, its value is `ToolContext.deps`."""


class ToolDispatcher:
    """The ToolRunner of a worker: it calls the functions of `agents`.

    Every call runs in a thread of its own, so that a timeout or an interrupt returns at once. Python cannot stop a
    thread: a sync function that was given up goes on until it returns, keeps its thread, and its result is dropped;
    `ToolContext.cancelled` tells it. An `async def` function runs on one shared loop and is cancelled. `deps` is
    entered before the function and left after it in the call's thread, also around a coroutine, whose own code runs on
    the loop; an exception of the tool, or a result that cannot be recorded, reaches it.
    """

    def __init__(
        self,
        agents: Mapping[str, Agent],
        *,
        clock: Clock,
        deps: OpenDeps | None = None,
        max_threads: int = MAX_TOOL_THREADS,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        self._agents = agents
        self._clock = clock
        self._deps: OpenDeps = deps or nullcontext
        self._max_result_bytes = max_result_bytes
        self._pool = DaemonPool("lash-tool", max_threads)
        self._loop = SharedLoop(clock)
        self._lock = threading.Lock()
        self._in_flight: set[Attempt] = set()
        self._closed = False

    def run(self, agent: str, invocation: ToolInvocation, interrupt: Interrupt) -> ToolOutcome:
        """How the call ended. Raises only Interrupted: `interrupt` is set, or the dispatcher is closed (draining).

        A call that has ended counts even if an interrupt comes at the same moment. After a timeout or an interrupt it
        is unknown what the function did, unless it had not begun: then it never does.
        """
        interrupt.check()
        started = self._clock.monotonic()
        prepared = self._prepare(agent, invocation)
        outcome = prepared if isinstance(prepared, ToolOutcome) else self._call(*prepared, invocation, interrupt)
        return replace(outcome, duration_ms=max(0, round((self._clock.monotonic() - started) * 1000)))

    def close(self) -> None:
        """Give up the calls in flight, whose callers get Interrupted (draining), and end the threads that are idle."""
        with self._lock:
            self._closed = True
            in_flight = list(self._in_flight)
        for attempt in in_flight:
            attempt.settle()
            attempt.changed.set()
        self._pool.close()
        self._loop.close()

    def _prepare(
        self, agent: str, invocation: ToolInvocation
    ) -> tuple[Tool[..., object], dict[str, object]] | ToolOutcome:
        found = self._agents.get(agent)
        tool = found.tool(invocation.tool) if found else None
        if tool is None:
            names = ", ".join(tool.name for tool in found.tools) if found else ""
            message = f"there is no tool {cut(invocation.tool, 100)!r}; the tools are: {names or 'none'}"
            return tool_failure(FailureClass.UNAVAILABLE, ErrorCode.TOOL_UNAVAILABLE, scrub(message))
        if invocation.timeout_seconds <= 0:
            return _timeout(f"tool {tool.name} was not called: no time is left")
        try:
            return tool, validate_arguments(tool, invocation.arguments)
        except InvalidArguments as error:
            return tool_failure(FailureClass.INVALID_REQUEST, ErrorCode.INVALID_TOOL_ARGS, scrub(str(error)))
        except Exception as error:  # a validator of the tool's own
            return _failed(invocation, describe(error), error)

    def _call(
        self, tool: Tool[..., object], arguments: dict[str, object], invocation: ToolInvocation, interrupt: Interrupt
    ) -> ToolOutcome:
        attempt = Attempt()
        with self._lock:
            if self._closed:
                raise Interrupted(InterruptReason.DRAINING)
            self._in_flight.add(attempt)
        unsubscribe = interrupt.on_set(attempt.changed.set)
        try:
            perform = partial(copy_context().run, self._perform, tool, arguments, invocation, attempt)
            if self._pool.submit(perform):
                self._clock.wait(attempt.changed, invocation.timeout_seconds)
        finally:
            outcome = attempt.settle()
            unsubscribe()
            with self._lock:
                self._in_flight.discard(attempt)
        if outcome is not None:
            return outcome
        interrupt.check()
        if self._closed:
            raise Interrupted(InterruptReason.DRAINING)
        log.warning("tool timed out", extra=_ids(invocation))
        seconds = f"{invocation.timeout_seconds:g} s"
        if attempt.begun:
            return _timeout(f"tool {tool.name} did not finish within {seconds}; whether it had an effect is unknown")
        return _timeout(f"tool {tool.name} was not called: no thread was free or deps did not open within {seconds}")

    def _perform(
        self, tool: Tool[..., object], arguments: dict[str, object], invocation: ToolInvocation, attempt: Attempt
    ) -> None:
        """The body of the call's thread. Never raises."""
        if attempt.given_up.is_set():
            return
        outcome = ToolOutcome(ToolStatus.SUCCESS)
        error: BaseException | None = None
        try:
            with self._deps() as deps:
                try:
                    value = self._invoke(tool, arguments, _context(invocation, attempt, deps), attempt)
                    outcome = self._outcome(tool, value, invocation)
                except BaseException as raised:
                    error = raised
                    raise
            # An exception that deps swallowed is a failure all the same: there is no value.
            message = "" if error is None else _message(error)
        except BaseException as raised:
            message = f"deps: {describe(raised)}" if error is None else _message(error)
            error = error or raised
        if attempt.given_up.is_set():
            log.info("given-up tool call ended", extra=_ids(invocation))
        elif error is None:
            attempt.finish(outcome)
        else:
            attempt.finish(_failed(invocation, message, error))

    def _invoke(
        self, tool: Tool[..., object], arguments: dict[str, object], context: ToolContext, attempt: Attempt
    ) -> object:
        if not attempt.begin():
            return None
        value = tool.function(**arguments, **dict.fromkeys(tool.signature.hidden, context))
        if inspect.iscoroutine(value):
            value = self._loop.run(value, attempt)
        return value

    def _outcome(self, tool: Tool[..., object], value: object, invocation: ToolInvocation) -> ToolOutcome:
        if isinstance(value, SwitchFrame):
            return switch_outcome(value, invocation, self._max_result_bytes)
        return ToolOutcome(ToolStatus.SUCCESS, result_json(tool, value, self._max_result_bytes))


def _context(invocation: ToolInvocation, attempt: Attempt, deps: object) -> ToolContext:
    return ToolContext(
        session_id=invocation.session_id,
        turn_id=invocation.turn_id,
        call_id=invocation.call_id,
        tool=invocation.tool,
        idempotency_key=invocation.idempotency_key,
        context=invocation.context,
        deps=deps,
        _cancelled=attempt.given_up,
    )


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, InvalidResult) else describe(error)


def _failed(invocation: ToolInvocation, message: str, error: BaseException) -> ToolOutcome:
    log.warning("tool failed", exc_info=error, extra=_ids(invocation))
    return tool_failure(FailureClass.EXECUTION, ErrorCode.TOOL_FAILED, message)


def _timeout(message: str) -> ToolOutcome:
    return tool_failure(FailureClass.TIMEOUT, ErrorCode.TOOL_TIMEOUT, message)


def _ids(invocation: ToolInvocation) -> dict[str, str]:
    return {
        "session_id": invocation.session_id,
        "turn_id": invocation.turn_id,
        "call_id": invocation.call_id,
        "tool": invocation.tool,
    }
