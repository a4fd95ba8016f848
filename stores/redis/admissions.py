"""Admission to providers in Redis: one account for all workers of an application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from redis import Redis

from lash_tasks.clock import Clock
from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.stores.protocols import AdmissionRequest, NotYet
from lash_tasks.stores.redis.admission_scripts import AdmissionScripts
from lash_tasks.stores.redis.breaker import Breaker
from lash_tasks.stores.redis.connections import reaching_redis
from lash_tasks.stores.redis.keys import Keys

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0


class RedisAdmissions:
    """Implements `Admissions`. `skew_ms` is added to the server's time, for tests."""

    def __init__(self, client: Redis, keys: Keys, clock: Clock, *, skew_ms: Callable[[], int] = int) -> None:
        self._client = client
        self._keys = keys
        self._skew_ms = skew_ms
        self._breaker = Breaker(clock, PAUSE_SECONDS)
        self._scripts = AdmissionScripts(client)

    def admit(self, request: AdmissionRequest) -> NotYet | None:
        answers: list[NotYet | None] = []
        keys = self._keys.admissions(request.provider)
        self._try(lambda: answers.append(self._scripts.admit(keys, request, self._skew_ms())))
        return answers[0] if answers else None

    def renew(self, provider: str, tickets: Collection[str], ttl_ms: int) -> None:
        if tickets:
            keys = self._keys.admissions(provider)
            self._try(lambda: self._scripts.renew(keys, tickets, ttl_ms, self._skew_ms()))

    def leave(
        self,
        provider: str,
        ticket: str,
        *,
        held_ms: int | None = None,
        tokens: int | None = None,
        pause_ms: int = 0,
    ) -> None:
        keys = self._keys.admissions(provider)
        self._try(lambda: self._scripts.leave(keys, ticket, held_ms, tokens, pause_ms, self._skew_ms()))

    def _try(self, command: Callable[[], None]) -> None:
        """Run `command` unless Redis is known to be away; a model call never fails for it."""
        if not self._breaker.allows():
            return
        try:
            with reaching_redis(self._client):
                command()
        except LeaseStoreUnavailable as error:
            if self._breaker.failed():
                extra = {"error": type(error.__cause__).__name__}
                logger.warning("Limits of providers are not kept until Redis is back", extra=extra)
        else:
            if self._breaker.succeeded():
                logger.info("Redis is back: limits of providers are kept again")
