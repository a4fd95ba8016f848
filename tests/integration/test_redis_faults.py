"""Redis lost, silent, emptied, read-only: who is told, how fast, and that all is well again afterwards."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
import redis

from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.ids import LeaseToken, SessionId, TurnId
from lash_tasks.errors import InvalidInput, LeaseStoreUnavailable
from lash_tasks.stores.protocols import GapReason, LeaseState, LiveBatch, LiveGap
from lash_tasks.stores.redis import RedisStores, open_redis_stores
from tests.services import PrivateRedis, wait_until

pytest_plugins = ["tests.redis_keys"]

SESSION = SessionId("customer-7")
SCOPE = "session:customer-7"
OURS = LeaseToken("ours")
DELTA = TurnActivity(SESSION, TurnId("t1"), 1, 1, 1, ActivityType.ASSISTANT_PROSE_DELTA, {"text": "Hello"})
TTL_MS = 60_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stores(private_redis: PrivateRedis, clock: FakeClock) -> Iterator[RedisStores]:
    stores = open_redis_stores(private_redis.url, clock=clock)
    yield stores
    stores.close()


@pytest.fixture
def server(private_redis: PrivateRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(private_redis.url) as client:
        yield client


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < seconds


def refuse_every_verb(stores: RedisStores) -> None:
    """Every verb says that Redis is away, each within two seconds."""
    with within(2), pytest.raises(LeaseStoreUnavailable):
        stores.leases.acquire(SCOPE, OURS, TTL_MS)
    with within(2), pytest.raises(LeaseStoreUnavailable):
        stores.leases.renew({SCOPE: OURS}, TTL_MS)
    with within(2), pytest.raises(LeaseStoreUnavailable):
        stores.leases.held([SCOPE])
    with within(2), pytest.raises(LeaseStoreUnavailable):
        stores.leases.release(SCOPE, OURS)
    with within(2):
        assert stores.slots.take("sweep", TTL_MS)
    with within(2):
        assert stores.slots.take_many(["a", "b"], TTL_MS) == [True, True]
    with within(2), pytest.raises(LeaseStoreUnavailable):
        stores.live.read(SESSION, None, 30)
    with within(2), pytest.raises(LeaseStoreUnavailable):
        stores.live.tail(SESSION)
    with within(1):
        stores.live.append([DELTA])


def test_emptied_redis_gives_its_leases_back_to_those_who_have_them(stores: RedisStores, server: redis.Redis) -> None:
    mine = {SCOPE: OURS, "session:other": OURS}
    for scope, token in mine.items():
        stores.leases.acquire(scope, token, TTL_MS)
    server.flushall()
    assert stores.leases.renew(mine, TTL_MS) == dict.fromkeys(mine, LeaseState.REASSERTED)
    assert not stores.leases.acquire(SCOPE, LeaseToken("theirs"), TTL_MS)


def test_scripts_are_sent_again_to_a_server_that_lost_them(stores: RedisStores, server: redis.Redis) -> None:
    stores.leases.renew({SCOPE: OURS}, TTL_MS)
    cursor = stores.live.tail(SESSION)
    server.script_flush()
    assert stores.leases.renew({SCOPE: OURS}, TTL_MS) == {SCOPE: LeaseState.HELD}
    stores.live.append([DELTA])
    assert stores.live.read(SESSION, cursor, 0) != LiveBatch((), cursor)


def test_a_killed_redis_is_reported_at_once_and_used_again_when_it_is_back(
    private_redis: PrivateRedis, stores: RedisStores, clock: FakeClock
) -> None:
    stores.leases.acquire(SCOPE, OURS, TTL_MS)
    stores.slots.take("sweep", TTL_MS)
    stores.live.append([DELTA])
    cursor = stores.live.tail(SESSION)

    private_redis.kill()
    refuse_every_verb(stores)

    private_redis.start()
    clock.advance(1)
    assert stores.leases.renew({SCOPE: OURS}, TTL_MS) == {SCOPE: LeaseState.REASSERTED}
    assert [stores.slots.take("sweep", TTL_MS) for _ in range(2)] == [True, False]
    missed = stores.live.read(SESSION, cursor, 0)
    assert isinstance(missed, LiveGap)
    assert missed.reason is GapReason.UNAVAILABLE
    stores.live.append([DELTA])
    found = stores.live.read(SESSION, missed.cursor, 0)
    assert isinstance(found, LiveBatch)
    assert [event.activity for event in found.events] == [DELTA]
    assert stores.leases.release(SCOPE, OURS)


def test_a_redis_that_was_never_there_is_reported_at_once(private_redis: PrivateRedis) -> None:
    private_redis.kill()
    stores = open_redis_stores(private_redis.url)
    refuse_every_verb(stores)
    stores.close()
    private_redis.start()


def test_a_silent_redis_is_reported_in_time_and_costs_a_turn_next_to_nothing(clock: FakeClock) -> None:
    """A server behind a dead network: connections come about, and nothing ever answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=512)) as silent:
        stores = open_redis_stores(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", clock=clock)
        refuse_every_verb(stores)
        accept_all(silent)

        with within(1):
            for _ in range(10_000):
                stores.live.append([DELTA])
        assert accept_all(silent) == 0, "an append tried again before its pause was over"
        clock.advance(1)
        for _ in range(10):
            stores.live.append([DELTA])
        assert accept_all(silent) == 1
        stores.close()


def accept_all(silent: socket.socket) -> int:
    """The number of connections that came about since the last time."""
    silent.setblocking(False)
    count = 0
    while True:
        try:
            silent.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_while_redis_is_silent_one_thread_in_a_second_waits_for_it(clock: FakeClock) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=512)) as silent:
        stores = open_redis_stores(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", clock=clock)
        stores.live.append([DELTA])
        accept_all(silent)
        clock.advance(1)
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda _: stores.live.append([DELTA]), range(200)))
        assert accept_all(silent) == 1
        stores.close()


def test_lost_events_are_logged_once_and_so_is_the_recovery(
    private_redis: PrivateRedis, stores: RedisStores, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stores.live.append([DELTA])
    private_redis.kill()
    for _ in range(5):
        stores.live.append([DELTA])
        clock.advance(1)
    private_redis.start()
    for _ in range(5):
        stores.live.append([DELTA])
    assert [record.message for record in caplog.records] == [
        "Live events are lost until Redis is back",
        "Redis is back: live events are kept again",
    ]


def test_a_reader_that_waits_hears_that_its_stream_was_lost(stores: RedisStores, server: redis.Redis) -> None:
    cursor = stores.live.tail(SESSION)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(stores.live.read, SESSION, cursor, 1)
        wait_until(lambda: server.info("clients")["blocked_clients"] == 1, 5, "the reader to wait")
        server.flushall()
        missed = found.result(10)
    assert isinstance(missed, LiveGap)
    assert missed.reason is GapReason.UNAVAILABLE


def test_a_reader_that_waits_does_not_take_the_events_of_a_new_stream_for_its_own(
    stores: RedisStores, server: redis.Redis
) -> None:
    cursor = stores.live.tail(SESSION)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(stores.live.read, SESSION, cursor, 30)
        wait_until(lambda: server.info("clients")["blocked_clients"] == 1, 5, "the reader to wait")
        server.flushall()
        stores.live.append([DELTA])
        missed = found.result(10)
    assert isinstance(missed, LiveGap)
    assert missed.reason is GapReason.UNAVAILABLE


def test_a_reader_that_waits_is_told_when_redis_dies(
    private_redis: PrivateRedis, stores: RedisStores, server: redis.Redis
) -> None:
    cursor = stores.live.tail(SESSION)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(stores.live.read, SESSION, cursor, 30)
        wait_until(lambda: server.info("clients")["blocked_clients"] == 1, 5, "the reader to wait")
        private_redis.kill()
        with within(2), pytest.raises(LeaseStoreUnavailable):
            found.result(10)
    private_redis.start()


def test_a_wrong_cursor_is_refused_without_asking_redis(private_redis: PrivateRedis, stores: RedisStores) -> None:
    private_redis.kill()
    for cursor in ("nonsense", "lashsc1:1:1-1:another"):
        with pytest.raises(InvalidInput):
            stores.live.read(SESSION, cursor, 30)
    private_redis.start()


def test_a_replica_that_refuses_writes_is_unavailable_until_it_accepts_them(
    stores: RedisStores, server: redis.Redis, clock: FakeClock
) -> None:
    cursor = stores.live.tail(SESSION)
    server.replicaof("127.0.0.1", 1)
    refuse_every_verb_that_writes(stores)
    server.replicaof("NO", "ONE")
    clock.advance(1)
    assert stores.leases.acquire(SCOPE, OURS, TTL_MS)
    stores.live.append([DELTA])
    found = stores.live.read(SESSION, cursor, 0)
    assert isinstance(found, LiveBatch)
    assert len(found.events) == 1


def refuse_every_verb_that_writes(stores: RedisStores) -> None:
    with pytest.raises(LeaseStoreUnavailable):
        stores.leases.acquire(SCOPE, OURS, TTL_MS)
    with pytest.raises(LeaseStoreUnavailable):
        stores.leases.renew({SCOPE: OURS}, TTL_MS)
    assert stores.slots.take("sweep", TTL_MS)
    stores.live.append([DELTA])


@pytest.mark.raises_code("lease_store_unavailable")
def test_a_redis_that_is_out_of_memory_is_unavailable(stores: RedisStores, server: redis.Redis) -> None:
    server.config_set("maxmemory", "1")
    with pytest.raises(LeaseStoreUnavailable, match="OutOfMemoryError"):
        stores.leases.acquire(SCOPE, OURS, TTL_MS)
    assert stores.slots.take("sweep", TTL_MS)
    stores.live.append([DELTA])


def test_a_wrong_password_is_unavailable_and_stays_out_of_the_message(private_redis: PrivateRedis) -> None:
    stores = open_redis_stores(f"redis://:hunter2@127.0.0.1:{private_redis.port}/0")
    with pytest.raises(LeaseStoreUnavailable) as refusal:
        stores.leases.acquire(SCOPE, OURS, TTL_MS)
    assert "hunter2" not in str(refusal.value) + str(refusal.value.__cause__) + repr(stores)
    stores.close()
