"""What a Redis URL may look like, and how few connections and calls it takes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.ids import LeaseToken, SessionId
from lash_tasks.errors import ConfigurationError, LeaseStoreUnavailable
from lash_tasks.stores.protocols import LeaseState, LiveBatch
from lash_tasks.stores.redis import RedisStores, open_redis_stores
from tests.services import PrivateRedis, free_port, wait_until

pytest_plugins = ["tests.redis_keys"]

SESSION = SessionId("customer-7")
OURS = LeaseToken("ours")
DELTA = TurnActivity(SESSION, None, 1, 1, 1, ActivityType.ASSISTANT_PROSE_DELTA, {"text": "Hello"})
TTL_MS = 60_000


@pytest.fixture
def stores(private_redis: PrivateRedis) -> Iterator[RedisStores]:
    stores = open_redis_stores(private_redis.url)
    yield stores
    stores.close()


@pytest.fixture
def server(private_redis: PrivateRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(private_redis.url) as client:
        yield client


def calls(server: redis.Redis, command: str) -> int:
    stats: dict[str, dict[str, int]] = server.info("commandstats")
    return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]


def answers(stores: RedisStores) -> bool:
    try:
        stores.leases.held(["session:a"])
    except LeaseStoreUnavailable:
        return False
    return True


def test_a_thousand_leases_are_renewed_in_one_call(stores: RedisStores, server: redis.Redis) -> None:
    mine = {f"session:{number}": OURS for number in range(1000)}
    stores.leases.renew({"session:0": OURS}, TTL_MS)
    server.config_resetstat()
    stores.leases.renew(mine, TTL_MS)
    assert calls(server, "evalsha") == 1
    assert set(stores.leases.renew(mine, TTL_MS).values()) == {LeaseState.HELD}


def test_many_events_are_appended_in_one_call(stores: RedisStores, server: redis.Redis) -> None:
    stores.live.append([DELTA])
    server.config_resetstat()
    stores.live.append([DELTA] * 64)
    assert calls(server, "evalsha") == 1
    assert calls(server, "xadd") == 64


def test_more_readers_may_wait_than_redis_py_has_connections_by_default(stores: RedisStores) -> None:
    start = stores.live.tail(SESSION)
    with ThreadPoolExecutor(150) as pool:
        found = [pool.submit(stores.live.read, SESSION, start, 30) for _ in range(150)]
        stores.live.append([DELTA])
        batches = [each.result(20) for each in found]
    assert all(isinstance(batch, LiveBatch) and len(batch.events) == 1 for batch in batches)


def test_readers_that_wait_leave_the_leases_their_connections(stores: RedisStores, server: redis.Redis) -> None:
    start = stores.live.tail(SESSION)
    with ThreadPoolExecutor(50) as pool:
        found = [pool.submit(stores.live.read, SESSION, start, 30) for _ in range(50)]
        wait_until(lambda: server.info("clients")["blocked_clients"] == 50, 10, "the readers to wait")
        assert stores.leases.acquire("session:a", OURS, TTL_MS)
        stores.live.append([DELTA])
        assert all(each.result(10) for each in found)


def test_a_unix_socket_will_do(private_redis: PrivateRedis, server: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    binary = server.info("server")["executable"]
    options = ("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path))
    with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as process:
        wait_until(path.exists, 10, "the socket")
        stores = open_redis_stores(f"unix://{path}?db=2")
        assert stores.leases.acquire("session:a", OURS, TTL_MS)
        stores.live.append([DELTA])
        stores.close()
        with redis.Redis(unix_socket_path=str(path), db=2) as client:
            assert set(client.keys()) == {b"lash::lease:session:a", b"lash::live:customer-7"}
        process.terminate()


def test_sentinels_lead_to_the_primary(private_redis: PrivateRedis, server: redis.Redis, tmp_path: Path) -> None:
    """The first sentinel of the URL is dead, the second one answers."""
    binary = server.info("server")["executable"]
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port 0\nsentinel monitor main 127.0.0.1 {private_redis.port} 1\n")
    dead, port = free_port(), free_port()
    command = [binary, str(config), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"]
    server.config_set("requirepass", "p@ss/word")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"sentinel://:p%40ss%2Fword@127.0.0.1:{dead},127.0.0.1:{port}/main/3"
        stores = open_redis_stores(url)
        wait_until(lambda: answers(stores), 10, "the sentinel to answer")
        assert stores.leases.acquire("session:a", OURS, TTL_MS)
        stores.live.append([DELTA])
        assert stores.live.tail(SESSION)
        stores.close()
        with redis.Redis(port=private_redis.port, password="p@ss/word", db=3) as client:
            assert set(client.keys()) == {b"lash::lease:session:a", b"lash::live:customer-7"}
        process.terminate()
    server.config_set("requirepass", "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost:6379",
        "amqp://:hunter2@localhost",
        "redis://:hunter2@localhost:port/0",
        "redis://:hunter2@localhost/0?no_such_option=1",
        "rediss://:hunter2@localhost/0?ssl_cert_reqs=perhaps",
        "sentinel://:hunter2@localhost:26379",
        "sentinel://:hunter2@localhost:26379/main/first",
        "sentinel://:hunter2@localhost:port/main",
        "sentinel://:hunter2@,localhost:26379/main",
        "sentinel://localhost:26379/main?password=hunter2",
    ],
)
def test_any_other_url_is_refused_before_it_is_used(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LASH_REDIS_URL must be") as refusal:
        open_redis_stores(url)
    assert "hunter2" not in str(refusal.value)


def test_a_namespace_that_could_reach_into_another_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LASH_NAMESPACE"):
        open_redis_stores("redis://localhost", namespace="a:lease")
