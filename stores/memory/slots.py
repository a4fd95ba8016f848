"""Slots of one process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from lash_tasks.clock import Clock
from lash_tasks.stores.memory.expiring import ExpiringKeys


class MemorySlots:
    """Implements `Slots` among the threads of one process."""

    def __init__(self, clock: Clock) -> None:
        self._lock = threading.Lock()
        self._taken = ExpiringKeys(clock)

    def take(self, name: str, ttl_ms: int) -> bool:
        with self._lock:
            return self._take(name, ttl_ms)

    def take_many(self, names: Sequence[str], ttl_ms: int) -> list[bool]:
        with self._lock:
            return [self._take(name, ttl_ms) for name in names]

    def _take(self, name: str, ttl_ms: int) -> bool:
        if self._taken.get(name) is not None:
            return False
        self._taken.put(name, "", ttl_ms)
        return True
