"""The in-process doorbell of the embedded wiring: a queue of session ids and the threads that answer it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.tools.exits import EXITS

log = logging.getLogger(__name__)


class LocalDoorbell:
    """Implements `ports.Doorbell`. A session that is waiting already is not queued twice."""

    def __init__(self) -> None:
        self._rung: queue.SimpleQueue[SessionId | None] = queue.SimpleQueue()
        self._waiting: set[SessionId] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def ring_session(self, session_id: SessionId) -> None:
        with self._lock:
            if self._closed or session_id in self._waiting:
                return
            self._waiting.add(session_id)
        self._rung.put(session_id)

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        self.ring_session(session_id)

    def answer(self, run: Callable[[SessionId], object], threads: int) -> None:
        """Start `threads` threads that call `run` for every ring."""
        for number in range(threads):
            thread = threading.Thread(target=self._serve, args=(run,), name=f"lash-turn-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Answer no further ring and wait for the threads. Rings that are waiting are forgotten; SQL has the work."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._rung.put(None)
        for thread in self._threads:
            thread.join(timeout)
        self._threads.clear()

    def _serve(self, run: Callable[[SessionId], object]) -> None:
        while (session_id := self._rung.get()) is not None:
            with self._lock:
                self._waiting.discard(session_id)
                closed = self._closed
            if closed:
                continue
            try:
                run(session_id)
            except (Exception, *EXITS):
                log.exception("a turn could not be run", extra={"session_id": session_id})
