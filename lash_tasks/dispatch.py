"""Ringing the doorbell after a commit: small Celery messages that carry ids and may be lost without harm."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import celery

from lash_tasks.celery import declaration
from lash_tasks.clock import Clock
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.queues import NO_NAMESPACE, Names, Task

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
"""After a failed ring the broker is left alone for so long; the sweep rings for what was missed."""
PATIENCE_SECONDS = 0.25
"""How long whoever rings waits until the message is out."""
IDLE_SECONDS = 5.0
"""How long the thread that sends waits for the next ring before it ends."""
MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class _Ring:
    task: Task
    ids: tuple[str, ...]
    over: threading.Event = field(default_factory=threading.Event)
    """Sent, failed or forgotten."""


class CeleryDoorbell:
    """Implements `ports.Doorbell` on any Celery broker. A ring that fails is logged and forgotten.

    One thread sends, because a broker that accepts connections and does not answer keeps its client for minutes,
    whatever the timeouts. Whoever rings waits for the message to be out, but not for long, and not at all while the
    broker is known to be slow. The thread ends when there is nothing to send, so there is nothing to close.
    """

    def __init__(self, app: celery.Celery, clock: Clock, names: Names = NO_NAMESPACE) -> None:
        self._app = app
        self._names = names
        self._queues = {task: declaration(names.queue_of(task)) for task in (Task.RUN_SESSION, Task.RESUME_TURN)}
        self._clock = clock
        self._rung = threading.Condition()
        self._rings: deque[_Ring] = deque()
        self._sender: threading.Thread | None = None
        self._slow = False
        self._quiet_until = 0.0

    def ring_session(self, session_id: SessionId) -> None:
        self._ring(Task.RUN_SESSION, session_id)

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        self._ring(Task.RESUME_TURN, session_id, turn_id)

    def _ring(self, task: Task, *ids: str) -> None:
        ring = _Ring(task, ids)
        with self._rung:
            if self._is_quiet() or len(self._rings) >= MAX_WAITING:
                return
            self._rings.append(ring)
            if self._sender is None or not self._sender.is_alive():  # a fork leaves the object without its thread
                self._sender = threading.Thread(target=self._send_rings, name="lash-doorbell", daemon=True)
                self._sender.start()
            self._rung.notify()
        if not self._slow and not self._clock.wait(ring.over, PATIENCE_SECONDS):
            self._slow = True

    def _is_quiet(self) -> bool:
        return self._clock.monotonic() < self._quiet_until

    def _send_rings(self) -> None:
        while (ring := self._next_ring()) is not None:
            if not self._is_quiet():
                self._send(ring)
            ring.over.set()

    def _next_ring(self) -> _Ring | None:
        with self._rung:
            if not self._rung.wait_for(lambda: self._rings, IDLE_SECONDS):
                self._sender = None
                return None
            return self._rings.popleft()

    def _send(self, ring: _Ring) -> None:
        started = self._clock.monotonic()
        try:
            self._app.send_task(
                self._names.task(ring.task),
                args=list(ring.ids),
                queue=self._queues[ring.task],
                router=_NoRoutes,
                priority=0,
                retry=False,
                ignore_result=True,
                serializer="json",
            )
        except Exception as error:
            # Whatever the transport raises: the work is in SQL and the sweep will ring again.
            self._quiet_until = self._clock.monotonic() + QUIET_SECONDS
            extra = {"task": ring.task.value, "error": type(error).__name__}
            log.warning("a doorbell could not be rung; the sweep will", extra=extra)
        else:
            self._slow = self._clock.monotonic() - started > PATIENCE_SECONDS


class _NoRoutes:
    """In place of the app's router, whose routes and functions are about tasks of its own."""

    @staticmethod
    def route(options: dict[str, Any], *_message: object) -> dict[str, Any]:
        return options


class SilentDoorbell:
    """Rings nowhere: for a client without a broker. The sweep of the workers finds what it stored."""

    def ring_session(self, session_id: SessionId) -> None:
        """Nothing to ring."""

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        """Nothing to ring."""
