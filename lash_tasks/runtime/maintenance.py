"""The four maintenance passes: rescue, sweep, wake_due, prune. Idempotent, bounded, safe to run anywhere at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import fence_scope
from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.machine.turn import MACHINE_VERSION
from lash_tasks.ports import Doorbell
from lash_tasks.runtime.insister import Insister
from lash_tasks.runtime.repertoire import Repertoire
from lash_tasks.stores.protocols import Leases, Pruning, Runnable, Slots, WorkStore

log = logging.getLogger(__name__)

PASS_LIMIT = 500
SWEEP_AFTER_MS = 1000
"""A batch that nobody took for so long may have lost its doorbell."""
DUE_WITHIN_MS = 5000
RING_AGAIN_MS = 5000
"""A session is not rung twice by these passes within this time: a long queue is not a lost doorbell."""
RESCUE_AGAIN_MS = 2000
PRUNE_STEP = 1000
"""So many rows of a kind go in a transaction."""
PRUNE_FOR_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The passes of one worker. It looks only for work of the agents it has the code for."""

    work: WorkStore
    leases: Leases
    slots: Slots
    doorbell: Doorbell
    repertoire: Repertoire
    insister: Insister
    pruning: Pruning
    clock: Clock
    draining: Callable[[], bool]

    @property
    def agents(self) -> Sequence[str]:
        return tuple(self.repertoire.refs)

    def abandoned(self) -> list[Runnable]:
        """Unfinished turns that nobody drives and that this worker has the code for."""
        found = self.work.abandoned(
            self.agents, PASS_LIMIT, machine_version=MACHINE_VERSION, besides=self.repertoire.foreign
        )
        return [one for one in found if one.pinned is None or self.repertoire.has_code_for(one.pinned)]

    def rescue(self) -> int:
        """Ring for unfinished turns that nobody drives; the number rung."""
        return self._ring("rescue", self.abandoned(), RESCUE_AGAIN_MS)

    def sweep(self, waiting_ms: int = SWEEP_AFTER_MS) -> int:
        """Ring for sessions whose input has waited: their doorbell may be lost; the number rung."""
        return self._ring("sweep", self.work.ready(self.agents, waiting_ms, PASS_LIMIT), RING_AGAIN_MS)

    def wake_due(self) -> int:
        """Ring for sessions whose delayed or merging input may be taken by now; the number rung, each moment once."""
        return self._ring("wake_due", self.work.due(self.agents, DUE_WITHIN_MS, PASS_LIMIT), RING_AGAIN_MS)

    def prune(self) -> int:
        """Remove what is over and past its retention, step by step until none is left; the number of rows.

        After a minute it leaves the rest to the next pass, and it stops when the worker drains.
        """
        until = self.clock.monotonic() + PRUNE_FOR_SECONDS
        removed, step = 0, PRUNE_STEP
        while step >= PRUNE_STEP and self.clock.monotonic() < until and not self.draining():
            step = self.work.prune(self.pruning, PRUNE_STEP)
            removed += step
        return removed

    def _ring(self, looked_by: str, found: Sequence[Runnable], again_ms: int) -> int:
        """Ring where nobody is at work: the holder of a lease looks again by itself, and a dead one's lease expires."""
        free = self._without_holder(found)
        names = [f"rung:{one.session_id}:{one.turn_id or one.due_ms or ''}" for one in free]
        first = self.slots.take_many(names, again_ms) if names else []
        chosen = [one for one, is_first in zip(free, first, strict=True) if is_first]
        answered = self.insister.answered(looked_by, found, chosen)
        for one in chosen:
            if one in answered:
                continue
            if one.turn_id is None:
                self.doorbell.ring_session(one.session_id)
            else:
                self.doorbell.ring_turn(one.session_id, one.turn_id)
        if chosen:
            log.info("doorbells rung for waiting work", extra={"sessions": len(chosen)})
        return len(chosen)

    def _without_holder(self, found: Sequence[Runnable]) -> Sequence[Runnable]:
        if not found:
            return found
        scopes = {one.session_id: fence_scope(one.session_id) for one in found}
        try:
            held = self.leases.held(list(scopes.values()))
        except LeaseStoreUnavailable:
            return found
        return [one for one in found if scopes[one.session_id] not in held]
