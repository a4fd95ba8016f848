"""Calling tools: arguments, results, and every ending of a call as an outcome."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from lash_tasks.clock import Clock
from lash_tasks.domain.codec import scrub
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import FailureClass, ToolOutcome, tool_failure
from lash_tasks.errors import ErrorCode
from lash_tasks.ports import Interrupt, ToolInvocation
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.arguments import InvalidArguments, validate_arguments
from lash_tasks.tools.calling import MAX_TOOL_THREADS, Caller, CallFailed, CallTimedOut, InCall, OpenDeps
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.control import SwitchFrame, switch_outcome
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.results import MAX_RESULT_BYTES, result_json
from lash_tasks.tools.text import cut, describe

log = logging.getLogger(__name__)


class ToolDispatcher:
    """The ToolRunner of a worker: it calls the functions of `agents`.

    A sync function that was given up goes on, and its result is dropped; `ToolContext.cancelled` tells it. A result
    that cannot be recorded reaches deps as an exception, as one of the tool does.
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
        self._max_result_bytes = max_result_bytes
        self.caller = Caller(clock=clock, deps=deps, max_threads=max_threads)
        """The threads and deps of the tools, for whatever else of the application is called like one."""

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
        self.caller.close()

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
        def body(call: InCall) -> ToolOutcome:
            hidden = dict.fromkeys(tool.signature.hidden, _context(invocation, call))
            value = call.finished(tool.function(**arguments, **hidden))
            if isinstance(value, SwitchFrame):
                return switch_outcome(value, invocation, self._max_result_bytes)
            return ToolOutcome(ToolStatus.SUCCESS, result_json(tool, value, self._max_result_bytes))

        try:
            return self.caller.call(body, invocation.timeout_seconds, interrupt, _ids(invocation))
        except CallFailed as failed:
            return _failed(invocation, failed.message, failed.error)
        except CallTimedOut as late:
            log.warning("tool timed out", extra=_ids(invocation))
            seconds = f"{invocation.timeout_seconds:g} s"
            if late.begun:
                return _timeout(
                    f"tool {tool.name} did not finish within {seconds}; whether it had an effect is unknown"
                )
            return _timeout(
                f"tool {tool.name} was not called: no thread was free or deps did not open within {seconds}"
            )


def _context(invocation: ToolInvocation, call: InCall) -> ToolContext:
    return ToolContext(
        session_id=invocation.session_id,
        turn_id=invocation.turn_id,
        call_id=invocation.call_id,
        tool=invocation.tool,
        idempotency_key=invocation.idempotency_key,
        context=invocation.context,
        deps=call.deps,
        _cancelled=call.given_up,
    )


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
