"""The keeper renews what this worker holds: leases in Redis and its own sign of life in SQL.

An unreachable Redis stops no running turn, and neither does a foreign token by itself: whoever holds it could not
raise the fence while this worker lives. SQL says when a turn is lost.
"""

from __future__ import annotations

import logging

from lash_tasks.errors import LeaseStoreUnavailable, StoreUnavailable
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime.worker import Engagement, Worker
from lash_tasks.stores.protocols import Fleet, Leases, LeaseState, WorkerRecord

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews the leases of all engaged sessions in one round trip."""

    def __init__(self, worker: Worker, leases: Leases, ttl_ms: int) -> None:
        self._worker = worker
        self._leases = leases
        self._ttl_ms = ttl_ms

    def keep(self) -> None:
        """One pass. Never raises."""
        held = {one.scope: one for one in self._worker.engagements() if one.turn_id is not None}
        if not held:
            return
        try:
            states = self._leases.renew({scope: one.token for scope, one in held.items()}, self._ttl_ms)
        except LeaseStoreUnavailable:
            log.warning("leases could not be renewed", extra={"sessions": len(held)})
            return
        for scope, state in states.items():
            if state is not LeaseState.HELD:
                log.warning("lease found changed", extra={"session_id": held[scope].session_id, "state": state.value})


class WorkerBeat:
    """Tells SQL that this worker lives and learns which of its turns are cancelled, lost or stuck."""

    def __init__(self, worker: Worker, fleet: Fleet, record: WorkerRecord) -> None:
        self._worker = worker
        self._fleet = fleet
        self._record = record

    def beat(self) -> None:
        """One pass. Never raises."""
        self._let_go_of_stuck_turns()
        driving = {(one.session_id, one.turn_id): one for one in self._worker.engagements() if one.turn_id is not None}
        fences = {key: one.fence for key, one in driving.items()}
        try:
            answer = self._fleet.beat(self._record, fences)
        except StoreUnavailable:
            log.warning("the worker's sign of life could not be stored", extra={"worker": self._worker.id})
            return
        for key in answer.cancels & driving.keys():
            driving[key].interrupt.set(InterruptReason.CANCELLED)
        for key in answer.foreign & driving.keys():
            log.warning("turn is lost to another worker", extra={"session_id": key[0], "turn_id": key[1]})
            driving[key].interrupt.set(InterruptReason.LOST)

    def _let_go_of_stuck_turns(self) -> None:
        """A turn past its effect's deadline is not renewed: another worker takes it, this thread is fenced."""
        now = self._worker.clock.monotonic()
        for engagement in self._worker.engagements():
            if engagement.deadline is not None and now > engagement.deadline:
                self._let_go(engagement)

    def _let_go(self, engagement: Engagement) -> None:
        extra = {"session_id": engagement.session_id, "turn_id": engagement.turn_id, "doing": engagement.doing.value}
        log.error("turn is stuck in an effect past its deadline and is given up", extra=extra)
        self._worker.dismiss(engagement)
        engagement.interrupt.set(InterruptReason.LOST)
