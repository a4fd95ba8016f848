"""What may vanish at any instant: leases, slots of time and live events."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lash_tasks.domain.activity import TurnActivity
from lash_tasks.domain.ids import LeaseToken, SessionId


class LeaseState(StrEnum):
    HELD = "held"
    REASSERTED = "reasserted"
    """The key was gone and is ours again: Redis lost it, we did not."""
    FOREIGN = "foreign"
    """Another token has it: stop."""


class Released(StrEnum):
    """How a lease was when it was let go."""

    QUIET = "quiet"
    """It was ours all the time, and nobody was turned away."""
    KNOCKED = "knocked"
    """Somebody wanted it meanwhile and was turned away, or may have been: look for what they came for."""
    LOST = "lost"
    """It was not ours any more, so nobody knows who came."""


class Leases(Protocol):
    """Who may try. Never decides who may write. Raises LeaseStoreUnavailable when Redis cannot be reached."""

    def acquire(self, scope: str, token: LeaseToken, ttl_ms: int) -> bool:
        """Take a free lease; False if any token, also this one, has it. Atomic: of many one wins.

        Whoever is turned away leaves a knock in the same step, which the holder finds when it lets go.
        """
        ...

    def renew(self, leases: Mapping[str, LeaseToken], ttl_ms: int) -> dict[str, LeaseState]:
        """Renew many in one round trip. A missing key is asserted again with our token, a foreign one is left.

        What is asserted again counts as knocked at, for nobody knows who was turned away before.
        """
        ...

    def release(self, scope: str, token: LeaseToken) -> Released:
        """Let go, if the token is ours. When this returns, the key is certainly not ours any more."""
        ...

    def held(self, scopes: Collection[str]) -> frozenset[str]:
        """Those of `scopes` whose lease anybody has now, in one round trip. A hint: it may be wrong a moment later."""
        ...


class Slots(Protocol):
    """First come in a span of time: one of many workers does a periodic thing."""

    def take(self, name: str, ttl_ms: int) -> bool:
        """Whether this caller is the first for `name` within `ttl_ms`. True when Redis cannot be reached."""
        ...

    def take_many(self, names: Sequence[str], ttl_ms: int) -> list[bool]:
        """`take` for many names in one round trip."""
        ...


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An activity in the stream, with the cursor that resumes right after it."""

    cursor: str
    activity: TurnActivity


class GapReason(StrEnum):
    TRIMMED = "trimmed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class LiveGap:
    """Events after the cursor are gone; go on from `cursor`."""

    reason: GapReason
    cursor: str


@dataclass(frozen=True, slots=True)
class LiveBatch:
    events: tuple[LiveEvent, ...]
    cursor: str
    """Where to go on; the given one when nothing came."""


class LiveReplay(Protocol):
    """A bounded stream of live events per session. Best effort: no failure of it fails a turn."""

    def append(self, activities: Sequence[TurnActivity]) -> None:
        """Add events of any number of sessions, each session's in order, in one round trip.

        Never raises: a failure is logged and the events are lost.
        """
        ...

    def read(self, session_id: SessionId, cursor: str | None, wait_seconds: float) -> LiveBatch | LiveGap:
        """Events after `cursor`, waiting up to `wait_seconds` for the first; None = from the stream's end on.

        A gap when events after the cursor were trimmed, or when the stream is another one (lost and begun anew):
        `unavailable`. Raises InvalidInput (field `cursor`) for a malformed cursor or one of another session, and
        LeaseStoreUnavailable when Redis cannot be reached.
        """
        ...

    def tail(self, session_id: SessionId) -> str:
        """The cursor of the stream's end, which begins here if there is none; LeaseStoreUnavailable."""
        ...
