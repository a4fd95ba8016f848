"""A turn's wish to stop, set from any thread: by a cancel, by a drain, by the loss of the session."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lash_tasks.clock import Clock
from lash_tasks.ports import Interrupted, InterruptReason


class TurnInterrupt:
    """Implements `ports.Interrupt`. The first reason stands."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason: InterruptReason | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_id = 0

    @property
    def reason(self) -> InterruptReason | None:
        return self._reason

    def set(self, reason: InterruptReason) -> None:
        """Set it and run the callbacks in this thread. Later calls do nothing."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        self._event.set()
        for callback in callbacks:
            callback()

    def wait(self, seconds: float) -> bool:
        return self._clock.wait(self._event, seconds)

    def check(self) -> None:
        if self._reason is not None:
            raise Interrupted(self._reason)

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            if self._reason is None:
                number = self._next_id
                self._next_id += 1
                self._callbacks[number] = callback
                return lambda: self._forget(number)
        callback()
        return lambda: None

    def _forget(self, number: int) -> None:
        with self._lock:
            self._callbacks.pop(number, None)
