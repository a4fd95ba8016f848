"""`open_stores`: which stores the settings name, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import LeaseToken, TurnId
from lash_tasks.errors import ConfigurationError, StoreUnavailable
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_stores
from lash_tasks.stores.memory.leases import MemoryLeases
from lash_tasks.stores.protocols import NotOpened, OpenedTurn, OpenRequest, Runnable, WorkerRecord
from lash_tasks.stores.redis.leases import RedisLeases
from lash_tasks.stores.sql import schema
from tests.conformance.arrange import ALICE, BOB, SESSION
from tests.conformance.inputs import agent, draft

POSTGRES_URL = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
TOKEN = LeaseToken("token-1")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_store_works_over_the_one_database(request: pytest.FixtureRequest, redis_url: str, database: str) -> None:
    url = request.getfixturevalue(f"{database}_url")
    schema.upgrade(url)
    stores = open_stores(Settings(database_url=url, redis_url=redis_url))
    stores.fleet.register_agents([agent()])
    [ref] = stores.blobs.put([b"picture"])
    stores.queue.enqueue(draft())
    assert stores.blobs.get(ref) == b"picture"
    assert stores.work.ready(["support"])[0].session_id == SESSION
    assert not stores.turns.request_cancel(SESSION, TurnId("queue:unknown"), "not needed")
    assert stores.sessions.delete(SESSION)
    assert stores.leases.acquire("session:a", TOKEN, 1000)
    assert not stores.leases.acquire("session:a", TOKEN, 1000)
    assert stores.slots.take("sweep", 1000)
    assert isinstance(stores.live.tail(SESSION), str)
    stores.close()
    stores.close()


def test_redis_is_used_where_it_is_set(sqlite_url: str, redis_url: str) -> None:
    with_redis = open_stores(Settings(database_url=sqlite_url, redis_url=redis_url))
    without = open_stores(Settings(database_url=sqlite_url))
    assert isinstance(with_redis.leases, RedisLeases)
    assert isinstance(without.leases, MemoryLeases)
    with_redis.close()
    without.close()


def test_workers_on_postgres_need_redis_and_clients_do_not() -> None:
    settings = Settings(database_url=POSTGRES_URL)
    with pytest.raises(ConfigurationError, match="Set LASH_REDIS_URL"):
        open_stores(settings)
    stores = open_stores(settings, allow_memory_leases=True)
    with pytest.raises(StoreUnavailable):
        stores.queue.waiting()
    stores.close()


@pytest.mark.raises_code("configuration")
def test_without_a_database_nothing_is_opened() -> None:
    with pytest.raises(ConfigurationError, match="Set LASH_DATABASE_URL"):
        open_stores(Settings())


def test_the_lease_time_is_how_long_a_worker_counts_as_live_for_every_store(sqlite_url: str) -> None:
    clock = FakeClock()
    schema.upgrade(sqlite_url)
    stores = open_stores(Settings(database_url=sqlite_url, lease_ttl=2.5), now_ms=clock.now_ms)
    stores.fleet.register_agents([agent()])
    stores.queue.enqueue(draft())
    opening: dict[str, Any] = {"session_id": SESSION, "agents": {"support": agent().ref()}, "machine_version": 1}
    turn = stores.turns.open(OpenRequest(worker=ALICE, **opening))
    assert isinstance(turn, OpenedTurn)
    key = (SESSION, turn.intent.turn_id)
    stores.fleet.beat(
        WorkerRecord(worker=ALICE, host="h", pid=1, queues=(), version="1", started_at_ms=0, seen_at_ms=0, live=True),
        {key: turn.fence},
    )

    clock.advance(2.499)
    assert [worker.live for worker in stores.fleet.workers()] == [True]
    assert stores.work.abandoned(["support"]) == []
    assert stores.turns.open(OpenRequest(worker=BOB, **opening)) is NotOpened.HOLDER_LIVES

    clock.advance(0.001)
    assert [worker.live for worker in stores.fleet.workers()] == [False]
    assert stores.work.abandoned(["support"]) == [Runnable(*key)]
    assert isinstance(stores.turns.open(OpenRequest(worker=BOB, **opening)), OpenedTurn)
    stores.close()
