"""One call in flight: the agreement between the thread that waits for it and the one that performs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Attempt(Generic[T]):
    """Ends once: finished by the performing side or given up by the waiting side, whichever is first."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        """Set when the waiting side should look: there is an outcome, or a wish to stop."""
        self.given_up = threading.Event()
        """Nobody waits any more."""
        self.begun = False
        """Whether the function was called."""
        self._lock = threading.Lock()
        self._outcome: T | None = None
        self._on_give_up: Callable[[], None] | None = None

    def begin(self) -> bool:
        """Whether the function may be called; once given up it may not."""
        with self._lock:
            self.begun = not self.given_up.is_set()
            return self.begun

    def finish(self, outcome: T) -> None:
        """Report how the call ended; dropped if it was given up before."""
        with self._lock:
            if self.given_up.is_set():
                return
            self._outcome = outcome
        self.changed.set()

    def settle(self) -> T | None:
        """The outcome; if there is none the call is given up, and None."""
        with self._lock:
            if self._outcome is not None:
                return self._outcome
            self.given_up.set()
            callback, self._on_give_up = self._on_give_up, None
        if callback is not None:
            callback()
        return None

    def abandon(self) -> None:
        """Give the call up for the side that waits, which looks up."""
        self.settle()
        self.changed.set()

    def on_give_up(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the call is given up (at once if it was). One callback, from any thread."""
        with self._lock:
            if not self.given_up.is_set():
                self._on_give_up = callback
                return
        callback()
