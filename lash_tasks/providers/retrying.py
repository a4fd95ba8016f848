"""Bounded retries of one model call, inside the one effect that is recorded (effects §13.4, §14.2)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from lash_tasks.clock import Clock
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import OPEN_GATE, Gate, Interrupt, ModelStream, ProviderFailure

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a retryable failure is tried again, and how long to wait before. One attempt means no retries."""

    max_attempts: int = 4
    base_seconds: float = 2.0
    max_seconds: float = 10.0
    jitter_seconds: float = 0.0
    retry_after_cap_seconds: float | None = 60.0

    def wait_seconds(self, attempt: int, retry_after: float | None, spread: float) -> float:
        """The wait after failed attempt `attempt` (from 1), with `spread` (0 to 1) of the jitter.

        What the server asks for comes before our own doubling.
        """
        if retry_after is not None:
            cap = self.retry_after_cap_seconds
            return retry_after if cap is None else min(retry_after, cap)
        doubled = self.base_seconds * float(2 ** (attempt - 1))
        return min(doubled, self.max_seconds) + spread * self.jitter_seconds


class _Noticing:
    """A ModelStream that remembers whether anything was shown since the last reset."""

    def __init__(self, stream: ModelStream) -> None:
        self._stream = stream
        self._shown = False

    def text(self, delta: str) -> None:
        self._shown = True
        self._stream.text(delta)

    def reasoning(self, delta: str) -> None:
        self._shown = True
        self._stream.reasoning(delta)

    def reset(self) -> None:
        if self._shown:
            self._shown = False
            self._stream.reset()

    def retrying(self, *, attempt: int, max_attempts: int, wait_seconds: float, reason: str) -> None:
        self._stream.retrying(attempt=attempt, max_attempts=max_attempts, wait_seconds=wait_seconds, reason=reason)


def with_retries(
    attempt_once: Callable[[ModelStream, float], ModelResponse],
    *,
    policy: RetryPolicy,
    clock: Clock,
    random: Callable[[], float],
    deadline: float,
    stream: ModelStream,
    interrupt: Interrupt,
    gate: Gate = OPEN_GATE,
) -> ModelResponse:
    """The first answer that `attempt_once` returns, which is called inside `gate` with its deadline.

    Raises the failure that is not retryable, the last one when attempts or time run out (a wait that would not end
    before `deadline` is not begun), and Interrupted as soon as `interrupt` is set, also while waiting.
    """
    shown = _Noticing(stream)
    attempt = 1
    while True:
        try:
            with gate.attempt(deadline, interrupt) as passed:
                deadline = passed.deadline
                response = attempt_once(shown, deadline)
                passed.tokens = response.usage.total_tokens or None
                return response
        except ProviderFailure as failure:
            # A socket that was shut on purpose looks like any other broken one.
            interrupt.check()
            wait = policy.wait_seconds(attempt, failure.retry_after, random())
            late = clock.monotonic() + wait >= deadline
            if not failure.retryable or attempt >= policy.max_attempts or late:
                raise
            logger.warning("model call is retried", extra={"code": failure.code, "attempt": attempt, "wait": wait})
            shown.retrying(attempt=attempt, max_attempts=policy.max_attempts, wait_seconds=wait, reason=failure.message)
        if interrupt.wait(wait):
            interrupt.check()
        shown.reset()
        attempt += 1
