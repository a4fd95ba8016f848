"""Threads that do a thing again and again: the keeper, the beat, and the ticker of the periodic table."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lash_tasks.clock import Clock
from lash_tasks.stores.protocols import Slots

log = logging.getLogger(__name__)


class Periodic:
    """A daemon thread that calls `action` every `seconds`. A raising action is logged and called again."""

    def __init__(self, name: str, seconds: float, action: Callable[[], object], clock: Clock) -> None:
        self._seconds = seconds
        self._action = action
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lash-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask it to end and wait for it. Harmless if it never started."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = self._clock.monotonic()
            try:
                self._action()
            except Exception:
                log.exception("a periodic action failed", extra={"action": self._thread.name})
            elapsed = self._clock.monotonic() - started
            self._clock.wait(self._stop, max(0.0, self._seconds - elapsed))


@dataclass(frozen=True, slots=True)
class Tick:
    """One line of the periodic table as the ticker runs it."""

    every_seconds: float
    run: Callable[[], object]


class Ticker:
    """Runs the periodic table; of all workers one takes each slot of time, any if Redis cannot say which.

    `serves` names what the passes look after: workers that look after something else have slots of their own.
    """

    def __init__(self, ticks: Mapping[str, Tick], slots: Slots, clock: Clock, *, serves: str = "") -> None:
        self._ticks = ticks
        self._slots = slots
        self._clock = clock
        self._serves = serves
        self._done: dict[str, int] = {}

    def tick(self) -> None:
        """One pass over the table: run what is due and not taken. One failing line does not stop the others."""
        now_ms = self._clock.now_ms()
        for name, tick in self._ticks.items():
            period_ms = round(tick.every_seconds * 1000)
            slot = now_ms // period_ms
            if self._done.get(name) == slot:
                continue
            self._done[name] = slot
            if not self._slots.take(f"tick:{self._serves}:{name}:{slot}", period_ms * 2):
                continue
            try:
                tick.run()
            except Exception:
                log.exception("a maintenance pass failed", extra={"pass": name})
