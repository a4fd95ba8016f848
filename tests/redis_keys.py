"""The backends of leases, slots and live events, and the rule that no key of ours in Redis stays for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from lash_tasks.clock import Clock, FakeClock
from lash_tasks.stores.memory import MemoryStores, open_memory_stores
from lash_tasks.stores.redis import RedisStores, open_redis_stores
from tests.services import PrivateRedis


@pytest.fixture(params=["memory", "redis"])
def volatile_stores(request: pytest.FixtureRequest) -> Iterator[MemoryStores | RedisStores]:
    """Empty leases, slots and live events: in memory, in Redis."""
    stores = open_memory_stores() if request.param == "memory" else open_redis_stores(_redis_url(request))
    yield stores
    stores.close()


class DawdlingClock(FakeClock):
    """The first reading takes until another thread reads it too, or a moment: what is no single step falls apart."""

    def __init__(self) -> None:
        super().__init__()
        self._meeting = threading.Barrier(2)

    def monotonic(self) -> float:
        with suppress(threading.BrokenBarrierError):
            self._meeting.wait(0.1)
        return super().monotonic()


@pytest.fixture
def dawdling_clock() -> Clock:
    return DawdlingClock()


@pytest.fixture(autouse=True)
def every_key_has_a_ttl(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves one of our keys in its Redis database without a time to live."""
    callspec = getattr(request.node, "callspec", None)
    on_redis = callspec is not None and callspec.params.get("volatile_stores") == "redis"
    url = _redis_url(request) if on_redis or "redis_url" in request.fixturenames else None
    yield
    if url is not None:
        _refuse_keys_without_ttl(url)


@pytest.fixture
def private_redis() -> Iterator[PrivateRedis]:
    """A Redis of the test's own, running, under the same rule."""
    with PrivateRedis() as server:
        yield server
        _refuse_keys_without_ttl(server.url)


def _refuse_keys_without_ttl(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        assert [key for key in client.scan_iter("lash:*") if client.pttl(key) == -1] == []


def _redis_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("redis_url")
    return url
