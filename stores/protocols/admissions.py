"""Admission to a model provider with limits: one queue and one account for all workers (effects §14.2, W-27)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

MINUTE_MS = 60_000
MAX_WAIT_MS = 5_000
"""The longest time between two questions: limits and pauses change."""
GRACE_MS = 2_000
"""How long after its next question is due somebody who waits is still waited for."""
KEEP_MS = 5 * MINUTE_MS
"""How long a provider's account is kept after its last use: longer than anything in it counts."""
FIRST_HOLD_MS = 800
"""How long a call is taken to last while none has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRequest:
    """One attempt of a model call at the gate of its provider. A limit that is None is none."""

    provider: str
    ticket: str
    """Names this attempt; no other has it."""
    tokens: int
    """An estimate. A request larger than the limit counts as large as the limit, so that it passes some time."""
    concurrency: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    ttl_ms: int
    """How long the place is held without a renewal."""
    arrived: int | None = None
    """The place in the queue that the first answer gave."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """Ask again with `arrived` after `wait_ms`; who does not loses the place."""

    wait_ms: int
    arrived: int


class Admissions(Protocol):
    """Who may ask a provider now. Best effort: while Redis cannot be reached everybody may. Never raises."""

    def admit(self, request: AdmissionRequest) -> NotYet | None:
        """None: go on, the place is taken and the request counted. One round trip.

        At no time more than `concurrency` places are taken, and in no span of a minute more requests or tokens are
        admitted than the limits say. Those who wait are served in the order in which they came.
        """
        ...

    def renew(self, provider: str, tickets: Collection[str], ttl_ms: int) -> None:
        """Hold places that are still taken for another `ttl_ms`."""
        ...

    def leave(
        self,
        provider: str,
        ticket: str,
        *,
        held_ms: int | None = None,
        tokens: int | None = None,
        pause_ms: int = 0,
    ) -> None:
        """Give the place back, or leave the queue. Idempotent.

        `held_ms` tells how long it was held (so that hints fit), `tokens` what the call really used, and `pause_ms`
        that nobody shall be admitted for so long.
        """
        ...
