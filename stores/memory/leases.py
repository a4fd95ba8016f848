"""Leases of one process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import LeaseToken
from lash_tasks.stores.memory.expiring import ExpiringKeys
from lash_tasks.stores.protocols import LeaseState, Released


class MemoryLeases:
    """Implements `Leases` among the threads of one process. Never unavailable."""

    def __init__(self, clock: Clock) -> None:
        self._lock = threading.Lock()
        self._holders = ExpiringKeys(clock)
        self._knocked: set[str] = set()

    def acquire(self, scope: str, token: LeaseToken, ttl_ms: int) -> bool:
        with self._lock:
            if self._holders.get(scope) is not None:
                self._knocked.add(scope)
                return False
            self._knocked.discard(scope)
            self._holders.put(scope, token, ttl_ms)
            return True

    def renew(self, leases: Mapping[str, LeaseToken], ttl_ms: int) -> dict[str, LeaseState]:
        with self._lock:
            return {scope: self._renew(scope, token, ttl_ms) for scope, token in leases.items()}

    def _renew(self, scope: str, token: LeaseToken, ttl_ms: int) -> LeaseState:
        holder = self._holders.get(scope)
        if holder is not None and holder != token:
            return LeaseState.FOREIGN
        self._holders.put(scope, token, ttl_ms)
        if holder is not None:
            return LeaseState.HELD
        self._knocked.add(scope)
        return LeaseState.REASSERTED

    def release(self, scope: str, token: LeaseToken) -> Released:
        with self._lock:
            if self._holders.get(scope) != token:
                return Released.LOST
            self._holders.remove(scope)
            knocked = scope in self._knocked
            self._knocked.discard(scope)
            return Released.KNOCKED if knocked else Released.QUIET

    def held(self, scopes: Collection[str]) -> frozenset[str]:
        with self._lock:
            return frozenset(scope for scope in scopes if self._holders.get(scope) is not None)
