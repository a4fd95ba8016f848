"""Leases, slots and live events inside one process: what the embedded wiring uses in place of Redis."""

from __future__ import annotations

from dataclasses import dataclass

from lash_tasks.clock import Clock, SystemClock
from lash_tasks.stores.memory.admissions import MemoryAdmissions
from lash_tasks.stores.memory.leases import MemoryLeases
from lash_tasks.stores.memory.live import MemoryLiveReplay
from lash_tasks.stores.memory.slots import MemorySlots
from lash_tasks.stores.protocols import Admissions, Leases, Slots


@dataclass(frozen=True, slots=True)
class MemoryStores:
    leases: Leases
    slots: Slots
    live: MemoryLiveReplay
    admissions: Admissions

    def close(self) -> None:
        """Let waiting readers return. Idempotent."""
        self.live.close()


def open_memory_stores(*, clock: Clock | None = None, live_retention_ms: int = 600_000) -> MemoryStores:
    """Fresh stores, empty and of this process alone. A live stream lasts `live_retention_ms` from its last use."""
    clock = clock or SystemClock()
    live = MemoryLiveReplay(clock, retention_ms=live_retention_ms)
    return MemoryStores(MemoryLeases(clock), MemorySlots(clock), live, MemoryAdmissions(clock))
