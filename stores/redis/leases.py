"""Leases in Redis: a key for each, its holder's token as value, with a mark behind it once somebody has knocked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from redis import Redis

from lash_tasks.domain.ids import LeaseToken
from lash_tasks.stores.protocols import LeaseState, Released
from lash_tasks.stores.redis.connections import reaching_redis
from lash_tasks.stores.redis.keys import Keys
from lash_tasks.stores.redis.scripts import LeaseScripts


class RedisLeases:
    """Implements `Leases`."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._scripts = LeaseScripts(client)

    def acquire(self, scope: str, token: LeaseToken, ttl_ms: int) -> bool:
        with reaching_redis(self._client):
            return self._scripts.acquire(self._keys.lease(scope), token, ttl_ms)

    def renew(self, leases: Mapping[str, LeaseToken], ttl_ms: int) -> dict[str, LeaseState]:
        if not leases:
            return {}
        tokens = {self._keys.lease(scope): token for scope, token in leases.items()}
        with reaching_redis(self._client):
            return dict(zip(leases, self._scripts.renew(tokens, ttl_ms), strict=True))

    def release(self, scope: str, token: LeaseToken) -> Released:
        with reaching_redis(self._client):
            return self._scripts.release(self._keys.lease(scope), token)

    def held(self, scopes: Collection[str]) -> frozenset[str]:
        if not scopes:
            return frozenset()
        with reaching_redis(self._client):
            tokens = self._client.mget([self._keys.lease(scope) for scope in scopes])
        return frozenset(scope for scope, token in zip(scopes, tokens, strict=True) if token is not None)
