"""The gatekeeper lets model calls through to providers with limits, and keeps the places of those that run.

Where a provider has no limits there is no gate: its calls cost no question.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lash_tasks.clock import Clock
from lash_tasks.domain.codec import canonical
from lash_tasks.domain.messages import ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.models import Limits
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.requests import ModelRequest
from lash_tasks.ports import (
    OPEN_GATE,
    Gate,
    Interrupt,
    Interrupted,
    InterruptReason,
    Passed,
    ProviderFailure,
    Providers,
)
from lash_tasks.runtime.worker import Doing, Engagement, Worker
from lash_tasks.stores.protocols import AdmissionRequest, Admissions

PAUSE_SECONDS = 2.0
"""How long nobody asks a provider that had too many requests and did not say until when."""
LONGEST_PAUSE_SECONDS = 60.0
TOO_MANY_REQUESTS = 429
IMAGE_BYTES = 256


class Gatekeeper:
    """One per worker process, for all its threads."""

    def __init__(
        self,
        admissions: Admissions,
        providers: Providers,
        worker: Worker,
        clock: Clock,
        new_ticket: Callable[[], str],
        ttl_ms: int,
    ) -> None:
        self.admissions = admissions
        self.worker = worker
        self.clock = clock
        self.new_ticket = new_ticket
        self.ttl_ms = ttl_ms
        self._providers = providers
        self._lock = threading.Lock()
        self._inside: dict[str, set[str]] = {}

    def gate(
        self, provider: str, request: ModelRequest, until: float, engagement: Engagement, on_wait: Callable[[], None]
    ) -> Gate:
        """The gate for one model call. It waits at most until the monotonic time `until`, and says so by `on_wait`."""
        limits = self._providers.limits(provider)
        if limits is None or limits == Limits():
            return OPEN_GATE
        tokens = estimated_tokens(request) if limits.tokens_per_minute is not None else 0
        return _LimitedGate(self, provider, limits, tokens, until, engagement, on_wait)

    def renew(self) -> None:
        """Hold the places of the calls that run, one round trip a provider. Never raises."""
        with self._lock:
            inside = {provider: tuple(tickets) for provider, tickets in self._inside.items() if tickets}
        for provider, tickets in inside.items():
            self.admissions.renew(provider, tickets, self.ttl_ms)

    def entered(self, provider: str, ticket: str) -> None:
        with self._lock:
            self._inside.setdefault(provider, set()).add(ticket)

    def left(self, provider: str, ticket: str) -> None:
        with self._lock:
            self._inside[provider].discard(ticket)


class _LimitedGate:
    """Implements `ports.Gate` for one model call."""

    def __init__(
        self,
        keeper: Gatekeeper,
        provider: str,
        limits: Limits,
        tokens: int,
        until: float,
        engagement: Engagement,
        on_wait: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._provider = provider
        self._limits = limits
        self._tokens = tokens
        self._until = until
        self._engagement = engagement
        self._on_wait = on_wait

    @contextmanager
    def attempt(self, deadline: float, interrupt: Interrupt) -> Iterator[Passed]:
        clock, pause = self._keeper.clock, 0.0
        came = clock.monotonic()
        ticket = self._enter(interrupt)
        began = clock.monotonic()
        passed = Passed(max(deadline, min(deadline + began - came, self._until)))
        self._keeper.entered(self._provider, ticket)
        try:
            yield passed
        except ProviderFailure as failure:
            pause = pause_seconds(failure)
            raise
        finally:
            self._keeper.left(self._provider, ticket)
            self._keeper.admissions.leave(
                self._provider,
                ticket,
                held_ms=round((clock.monotonic() - began) * 1000),
                tokens=passed.tokens if self._limits.tokens_per_minute is not None else None,
                pause_ms=round(pause * 1000),
            )

    def _enter(self, interrupt: Interrupt) -> str:
        """Stand in the queue until the place is ours; its ticket."""
        request = AdmissionRequest(
            provider=self._provider,
            ticket=self._keeper.new_ticket(),
            tokens=self._tokens,
            concurrency=self._limits.concurrency,
            requests_per_minute=self._limits.requests_per_minute,
            tokens_per_minute=self._limits.tokens_per_minute,
            ttl_ms=self._keeper.ttl_ms,
        )
        answer = self._keeper.admissions.admit(request)
        if answer is None:
            return request.ticket
        self._on_wait()
        before, self._engagement.doing = self._engagement.doing, Doing.WAITING
        try:
            while answer is not None:
                self._wait(answer.wait_ms / 1000, interrupt)
                answer = self._keeper.admissions.admit(replace(request, arrived=answer.arrived))
        except BaseException:
            self._keeper.admissions.leave(self._provider, request.ticket)
            raise
        finally:
            self._engagement.doing = before
        return request.ticket

    def _wait(self, seconds: float, interrupt: Interrupt) -> None:
        # A drain first says that it drains and then interrupts who waits, so one of the two is seen here.
        if self._keeper.worker.draining:
            raise Interrupted(InterruptReason.DRAINING)
        left = self._until - self._keeper.clock.monotonic()
        if left <= 0:
            raise ProviderFailure(
                f"the limits of provider {self._provider!r} let no call through within the turn's time",
                code=ErrorCode.PROVIDER_LIMIT,
                kind="timeout",
                retryable=True,
            )
        if interrupt.wait(min(seconds, left)):
            interrupt.check()


def pause_seconds(failure: ProviderFailure) -> float:
    """How long nobody shall ask the provider after this failure; 0 for one that says nothing of that."""
    if not failure.retryable:
        return 0.0
    if failure.retry_after is not None:
        return min(failure.retry_after, LONGEST_PAUSE_SECONDS)
    return PAUSE_SECONDS if failure.status == TOO_MANY_REQUESTS else 0.0


def estimated_tokens(request: ModelRequest) -> int:
    """A quarter of the bytes that are sent, and what an image usually costs (effects §14.2)."""
    size = len(request.system.encode("utf-8", "replace"))
    size += sum(len(spec.description) + len(canonical(spec.parameters)) for spec in request.tools)
    for message in request.messages:
        for part in message.parts:
            match part:
                case TextPart(text=text) | ReasoningPart(text=text) | ToolResultPart(text=text):
                    size += len(text.encode("utf-8", "replace"))
                case ToolCallPart(arguments=arguments):
                    size += len(arguments.encode("utf-8", "replace"))
                case _:
                    size += IMAGE_BYTES
    return max(1, size // 4)
