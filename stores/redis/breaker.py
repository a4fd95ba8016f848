"""A circuit breaker: while something is down, hardly anybody waits for it."""

from __future__ import annotations

import threading

from lash_tasks.clock import Clock


class Breaker:
    """Lets calls through while they succeed; after a failure, one call in `pause_seconds`."""

    def __init__(self, clock: Clock, pause_seconds: float) -> None:
        self._clock = clock
        self._pause = pause_seconds
        self._lock = threading.Lock()
        self._next_attempt: float | None = None

    def allows(self) -> bool:
        """Whether to call now; the caller reports back how it went."""
        with self._lock:
            if self._next_attempt is None:
                return True
            now = self._clock.monotonic()
            if now < self._next_attempt:
                return False
            self._next_attempt = now + self._pause
            return True

    def failed(self) -> bool:
        """A call failed; True if the one before it had not."""
        with self._lock:
            first = self._next_attempt is None
            self._next_attempt = self._clock.monotonic() + self._pause
            return first

    def succeeded(self) -> bool:
        """A call succeeded; True if the one before it had not."""
        with self._lock:
            recovered = self._next_attempt is not None
            self._next_attempt = None
            return recovered
