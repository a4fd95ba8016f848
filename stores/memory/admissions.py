"""Admission to providers among the threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field

from lash_tasks.clock import Clock
from lash_tasks.stores.protocols.admissions import (
    FIRST_HOLD_MS,
    GRACE_MS,
    MAX_WAIT_MS,
    MINUTE_MS,
    AdmissionRequest,
    NotYet,
)


@dataclass(slots=True)
class _Waiting:
    arrived: int
    tokens: int
    until: int
    """When it counts as gone."""


@dataclass(slots=True)
class _Account:
    """What is known of one provider; times in milliseconds of the clock."""

    running: dict[str, int] = field(default_factory=dict)
    """Ticket to the end of its term."""
    started: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Ticket to when it was admitted, and its tokens; oldest first."""
    queue: dict[str, _Waiting] = field(default_factory=dict)
    hold_ms: float = FIRST_HOLD_MS
    paused_until: int = 0


class MemoryAdmissions:
    """Implements `Admissions`; the script in `stores/redis/admission_scripts.py` does the same in the same order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        self._last_arrived = 0

    def admit(self, request: AdmissionRequest) -> NotYet | None:
        with self._lock:
            now = self._now()
            account = self._accounts.setdefault(request.provider, _Account())
            _forget(account, now)
            tokens = min(request.tokens, request.tokens_per_minute or 0)
            arrived = request.arrived if request.arrived is not None else self._arrive(now)
            others = [one for ticket, one in account.queue.items() if ticket != request.ticket]
            ahead = [one for one in others if one.arrived < arrived]
            wait = _wait(account, request, tokens, ahead, now)
            if wait <= 0:
                account.queue.pop(request.ticket, None)
                account.running[request.ticket] = now + request.ttl_ms
                account.started[request.ticket] = (now, tokens)
                return None
            wait = min(wait, MAX_WAIT_MS)
            account.queue[request.ticket] = _Waiting(arrived, tokens, now + wait + GRACE_MS)
            return NotYet(wait, arrived)

    def renew(self, provider: str, tickets: Collection[str], ttl_ms: int) -> None:
        with self._lock:
            running = self._accounts.setdefault(provider, _Account()).running
            running.update({ticket: self._now() + ttl_ms for ticket in tickets if ticket in running})

    def leave(
        self,
        provider: str,
        ticket: str,
        *,
        held_ms: int | None = None,
        tokens: int | None = None,
        pause_ms: int = 0,
    ) -> None:
        with self._lock:
            account = self._accounts.setdefault(provider, _Account())
            account.running.pop(ticket, None)
            account.queue.pop(ticket, None)
            if held_ms is not None:
                account.hold_ms = 0.8 * account.hold_ms + 0.2 * held_ms
            if tokens is not None and ticket in account.started:
                account.started[ticket] = (account.started[ticket][0], tokens)
            if pause_ms > 0:
                account.paused_until = max(account.paused_until, self._now() + pause_ms)

    def _now(self) -> int:
        return round(self._clock.monotonic() * 1000)

    def _arrive(self, now: int) -> int:
        self._last_arrived = max(self._last_arrived + 1, now * 1000)
        return self._last_arrived


def _forget(account: _Account, now: int) -> None:
    """Drop terms that are over, requests older than a minute, and who stopped asking."""
    account.running = {ticket: end for ticket, end in account.running.items() if end > now}
    account.started = {ticket: one for ticket, one in account.started.items() if one[0] > now - MINUTE_MS}
    account.queue = {ticket: one for ticket, one in account.queue.items() if one.until > now}


def _wait(account: _Account, request: AdmissionRequest, tokens: int, ahead: list[_Waiting], now: int) -> int:
    """How long until the request may be admitted, so far as that can be told; 0 = now."""
    wait, rank = account.paused_until - now, len(ahead)
    started = list(account.started.values())
    if request.concurrency is not None:
        lacking = rank + 1 - (request.concurrency - len(account.running))
        if lacking > 0:
            wait = max(wait, round(min(max(account.hold_ms * lacking / request.concurrency / 8, 10), 1000)))
    if request.requests_per_minute is not None:
        lacking = rank + 1 - (request.requests_per_minute - len(started))
        if lacking > 0:
            at = started[lacking - 1][0] if lacking <= len(started) else now
            wait = max(wait, at + MINUTE_MS - now)
    if request.tokens_per_minute is not None:
        used = sum(one[1] for one in started) + sum(one.tokens for one in ahead)
        lacking = used + tokens - request.tokens_per_minute
        at = now
        for at, leaving in started:
            if lacking <= 0:
                break
            lacking -= leaving
            wait = max(wait, at + MINUTE_MS - now)
        if lacking > 0:
            wait = max(wait, MINUTE_MS)
    return wait
