"""Ringing the doorbell after a commit: small Celery messages that carry ids and may be lost without harm."""

from __future__ import annotations

import logging
import threading

import celery

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.queues import ROUTES, Task

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
"""After a failed ring the broker is left alone for so long; the sweep rings for what was missed."""


class CeleryDoorbell:
    """Implements `ports.Doorbell` on any Celery broker. A ring that fails is logged and forgotten."""

    def __init__(self, app: celery.Celery, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._lock = threading.Lock()
        self._quiet_until = 0.0

    def ring_session(self, session_id: SessionId) -> None:
        self._ring(Task.RUN_SESSION, session_id)

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        self._ring(Task.RESUME_TURN, session_id, turn_id)

    def _ring(self, task: Task, *ids: str) -> None:
        if self._clock.monotonic() < self._quiet_until:
            return
        try:
            self._app.send_task(
                task.value, args=list(ids), queue=ROUTES[task].value, retry=False, ignore_result=True, serializer="json"
            )
        except Exception:
            # Whatever the transport raises: the work is in SQL and the sweep will ring again.
            with self._lock:
                self._quiet_until = self._clock.monotonic() + QUIET_SECONDS
            log.warning("a doorbell could not be rung; the sweep will", extra={"task": task.value}, exc_info=True)


class SilentDoorbell:
    """Rings nowhere: for a client without a broker. The sweep of the workers finds what it stored."""

    def ring_session(self, session_id: SessionId) -> None:
        """Nothing to ring."""

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        """Nothing to ring."""
