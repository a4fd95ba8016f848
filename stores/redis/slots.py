"""Slots in Redis: a key for each that is taken."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.stores.redis.connections import reaching_redis
from lash_tasks.stores.redis.keys import Keys


class RedisSlots:
    """Implements `Slots`."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def take(self, name: str, ttl_ms: int) -> bool:
        return self.take_many([name], ttl_ms)[0]

    def take_many(self, names: Sequence[str], ttl_ms: int) -> list[bool]:
        try:
            with reaching_redis(self._client), self._client.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.set(self._keys.slot(name), "", nx=True, px=ttl_ms)
                return [bool(taken) for taken in pipeline.execute()]
        except LeaseStoreUnavailable:
            return [True] * len(names)
