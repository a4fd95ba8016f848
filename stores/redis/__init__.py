"""Leases, slots and live events in Redis: what the workers of one application share beside SQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lash_tasks.clock import Clock, SystemClock
from lash_tasks.errors import ConfigurationError
from lash_tasks.stores.protocols import Admissions, Leases, LiveReplay, Slots
from lash_tasks.stores.redis.admissions import RedisAdmissions
from lash_tasks.stores.redis.connections import Connections, connect
from lash_tasks.stores.redis.keys import Keys
from lash_tasks.stores.redis.leases import RedisLeases
from lash_tasks.stores.redis.live import RedisLiveReplay
from lash_tasks.stores.redis.slots import RedisSlots


@dataclass(frozen=True, slots=True)
class RedisStores:
    leases: Leases
    slots: Slots
    live: LiveReplay
    admissions: Admissions
    _connections: Connections

    def close(self) -> None:
        """Close every connection, once nothing uses the stores any more. Idempotent."""
        self._connections.close()


def open_redis_stores(
    url: str,
    *,
    namespace: str = "",
    clock: Clock | None = None,
    live_retention_ms: int = 600_000,
    skew_ms: Callable[[], int] = int,
) -> RedisStores:
    """Stores on the Redis at `url`; ConfigurationError if it is no such URL. Connects at the first use only.

    A live stream lasts `live_retention_ms` from its last use. `skew_ms` moves the server's time by which limits are
    kept, for tests.
    """
    if ":" in namespace:
        raise ConfigurationError("LASH_NAMESPACE must not contain a colon")
    keys = Keys(namespace)
    connections = connect(url)
    clock = clock or SystemClock()
    return RedisStores(
        leases=RedisLeases(connections.commands, keys),
        slots=RedisSlots(connections.commands, keys),
        live=RedisLiveReplay(connections, keys, clock, retention_ms=live_retention_ms),
        admissions=RedisAdmissions(connections.commands, keys, clock, skew_ms=skew_ms),
        _connections=connections,
    )
