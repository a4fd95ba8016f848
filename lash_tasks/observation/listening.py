"""Waiting for news of a session: the live stream says it at once, a pause after which SQL is read says it for sure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.stores.protocols import InputQueue, LiveBatch, LiveGap, LiveReplay, SessionStore


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two looks at SQL while nothing is heard: the first pause, doubled up to the longest."""

    first: float
    longest: float

    def pauses(self) -> Iterator[float]:
        seconds = self.first
        while True:
            yield seconds
            seconds = min(seconds * 2, self.longest)


WOKEN = Pace(1.0, 1.0)
"""The live stream reaches this process, so the looks at SQL only make sure."""
UNWOKEN = Pace(0.02, 0.4)
"""The live stream is another process's memory: SQL alone brings news."""
OUTAGE = Pace(0.2, 1.0)
"""The live stream is down."""

TRY_AGAIN_SECONDS = 2.0
"""How long a live stream that cannot be reached is left alone: each try may take a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What observers read: the truth in SQL, and the live stream that makes it quick."""

    queue: InputQueue
    sessions: SessionStore
    live: LiveReplay
    clock: Clock
    pace: Pace = WOKEN


class Listener:
    """A place in the live stream of one session. While the stream is down, listening is a pause."""

    def __init__(
        self, sources: Sources, session_id: SessionId, stop: threading.Event, cursor: str | None = None
    ) -> None:
        self._live = sources.live
        self._clock = sources.clock
        self._session_id = session_id
        self._stop = stop
        self._pauses = sources.pace.pauses()
        self._outage: Iterator[float] | None = None
        self._try_at = self._clock.monotonic()
        self.cursor = cursor
        """Where listening goes on; None until the stream has been reached."""

    @property
    def down(self) -> bool:
        """Whether the stream could not be reached at the last try."""
        return self._outage is not None

    def attend(self) -> None:
        """Take the place at the end of the stream, unless there is one. What SQL is asked next misses nothing then."""
        if self.cursor is None and self._may_try():
            try:
                self.cursor = self._live.tail(self._session_id)
            except LeaseStoreUnavailable:
                self._lost()
            else:
                self._outage = None

    def listen(self, at_most: float) -> LiveBatch | LiveGap | None:
        """What comes within the present pause, and within `at_most` seconds; None when it is time to look at SQL."""
        started = self._clock.monotonic()
        seconds = min(at_most, next(self._pauses))
        found = self._read(seconds)
        if found is not None:
            return found
        if self._outage is not None:
            seconds = min(at_most, next(self._outage))
        self._clock.wait(self._stop, started + seconds - self._clock.monotonic())
        return None

    def waiting(self) -> LiveBatch | LiveGap | None:
        """What is in the stream already and was not heard yet; None when there is no more."""
        return self._read(0.0)

    def _read(self, seconds: float) -> LiveBatch | LiveGap | None:
        if self.cursor is None or not self._may_try():
            return None
        try:
            found = self._live.read(self._session_id, self.cursor, seconds)
        except LeaseStoreUnavailable:
            self._lost()
            return None
        self._outage = None
        self.cursor = found.cursor
        return found if isinstance(found, LiveGap) or found.events else None

    def _may_try(self) -> bool:
        return self._clock.monotonic() >= self._try_at

    def _lost(self) -> None:
        self._try_at = self._clock.monotonic() + TRY_AGAIN_SECONDS
        self._outage = self._outage or OUTAGE.pauses()
