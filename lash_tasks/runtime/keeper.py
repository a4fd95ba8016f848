"""The keeper renews what this worker holds: leases in Redis and its own sign of life in SQL.

An unreachable Redis stops no running turn, and neither does a foreign token by itself: whoever holds it could not
raise the fence while this worker lives. SQL says when a turn is lost.
"""

from __future__ import annotations

import logging

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.errors import LeaseStoreUnavailable, StoreUnavailable
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime.worker import Doing, Engagement, Worker
from lash_tasks.stores.protocols import Fleet, Leases, LeaseState, TurnStore, WorkerRecord

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews the leases of all engaged sessions in one round trip."""

    def __init__(self, worker: Worker, leases: Leases, ttl_ms: int) -> None:
        self._worker = worker
        self._leases = leases
        self._ttl_ms = ttl_ms

    def keep(self) -> None:
        """One pass. Never raises."""
        held = {one.scope: one for one in self._worker.engagements() if one.turn_id is not None and not one.leaving}
        if not held:
            return
        try:
            states = self._leases.renew({scope: one.token for scope, one in held.items()}, self._ttl_ms)
        except LeaseStoreUnavailable:
            log.warning("leases could not be renewed", extra={"sessions": len(held)})
            return
        # Asked again, because by now a lease may be that of a later turn of the same visit, or have no turn any more.
        kept = {one.token for one in self._worker.engagements() if not one.leaving}
        for scope, state in states.items():
            if held[scope].token not in kept:
                self._take_back(held[scope], state)
            elif state is not LeaseState.HELD:
                log.warning("lease found changed", extra={"session_id": held[scope].session_id, "state": state.value})

    def _take_back(self, engagement: Engagement, state: LeaseState) -> None:
        """The turn let go of its lease while we renewed it: a lease asserted again has nobody behind it."""
        if state is not LeaseState.REASSERTED:
            return
        try:
            self._leases.release(engagement.scope, engagement.token)
        except LeaseStoreUnavailable:
            log.warning("lease could not be released", extra={"session_id": engagement.session_id})


class WorkerBeat:
    """Tells SQL that this worker lives and learns which of its turns are cancelled, lost or stuck."""

    def __init__(self, worker: Worker, fleet: Fleet, turns: TurnStore, record: WorkerRecord) -> None:
        self._worker = worker
        self._fleet = fleet
        self._turns = turns
        self._record = record
        self._idle: frozenset[tuple[SessionId, TurnId, int]] = frozenset()

    def beat(self) -> None:
        """One pass. Never raises."""
        stuck = self._dismiss_stuck_turns()
        driving = {(one.session_id, one.turn_id): one for one in self._worker.engagements() if one.turn_id is not None}
        fences = {key: one.fence for key, one in driving.items()}
        try:
            answer = self._fleet.beat(self._record, fences)
            self._give_up_forgotten_turns(answer.idle)
            for turn in stuck:
                self._turns.give_up(*turn, crashed=True)
        except StoreUnavailable:
            log.warning("the worker's sign of life could not be stored", extra={"worker": self._worker.id})
            return
        for key in answer.cancels & driving.keys():
            driving[key].interrupt.set(InterruptReason.CANCELLED)
        for key in answer.foreign & driving.keys():
            if driving[key].leaving or driving[key].doing is Doing.COMMIT:
                continue  # it is over because it has just ended; a commit that came too late is told so by its fence
            log.warning("turn is lost to another worker", extra={"session_id": key[0], "turn_id": key[1]})
            driving[key].interrupt.set(InterruptReason.LOST)

    def _give_up_forgotten_turns(self, idle: frozenset[tuple[SessionId, TurnId, int]]) -> None:
        """A turn that two beats find idle under one fence was left when SQL was away; at one it may just be opening."""
        engaged = {one.session_id for one in self._worker.engagements()}
        for session_id, turn_id, fence in idle & self._idle:
            if session_id not in engaged:
                log.warning("a forgotten turn is given up", extra={"session_id": session_id, "turn_id": turn_id})
                self._turns.give_up(session_id, turn_id, fence, crashed=False)
        self._idle = idle

    def _dismiss_stuck_turns(self) -> list[tuple[SessionId, TurnId, int]]:
        """Turns past their effect's deadline: another worker may take them, and their threads are fenced."""
        now = self._worker.clock.monotonic()
        stuck = []
        for one in self._worker.engagements():
            deadline = one.deadline  # read once: the turn's thread clears it
            if one.turn_id is None or deadline is None or now <= deadline:
                continue
            extra = {"session_id": one.session_id, "turn_id": one.turn_id, "doing": one.doing.value}
            if not self._worker.dismiss_turn(one):
                continue  # it has ended while we looked, and its thread is at the next turn
            log.error("turn is stuck in an effect past its deadline and is given up", extra=extra)
            one.interrupt.set(InterruptReason.LOST)
            stuck.append((one.session_id, one.turn_id, one.fence))
        return stuck
