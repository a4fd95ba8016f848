"""Who may drive a turn: a worker that lives keeps it however long it lasts, one that seems dead loses it for good.

Blips of the servers and wrong clocks of the workers make no difference.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from lash_tasks.client import Client, Receipt
from lash_tasks.clock import SystemClock
from lash_tasks.domain.ids import SessionId, fence_scope
from lash_tasks.stores.redis.keys import Keys
from tests.endpoint import ModelEndpoint
from tests.faults.cluster import Cluster, WorkerProcess
from tests.services import PrivatePostgres, PrivateRedis, wait_until

TTL = 2.5
SESSION = "long"
MESSAGE = "m [hold]"
TEN_MINUTES_MS = 600_000
LEASE = Keys().lease(fence_scope(SessionId(SESSION)))

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str, private_redis: PrivateRedis, endpoint: ModelEndpoint) -> Cluster:
    cluster = Cluster(tmp_path, postgres_url, private_redis.url, endpoint, TTL)
    cluster.hold.touch()
    return cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def begin(cluster: Cluster, client: Client) -> Receipt:
    """A turn that stays inside its tool."""
    receipt = client.send(SESSION, MESSAGE, agent="counter")
    wait_until(lambda: cluster.tool_counts()[MESSAGE] == 1, 20, "the tool to begin")
    return receipt


def rung_for(receipt: Receipt, seconds: float) -> None:
    """So long the session is rung for, so that every worker tries to have it."""
    clock = SystemClock()
    until = clock.monotonic() + seconds

    def over() -> bool:
        receipt.ring()
        return clock.monotonic() >= until

    wait_until(over, seconds + 5, "time to pass")


def check_one_opening(cluster: Cluster, client: Client, receipt: Receipt) -> None:
    """The turn ends with its first opening, and nothing was done twice."""
    cluster.hold.unlink()
    assert receipt.result(timeout=20).text == f"answer: {MESSAGE}"
    assert cluster.fence(client, SESSION) == 2, "opened once, committed once"
    assert cluster.tool_counts() == {MESSAGE: 1}
    assert cluster.model_calls() == Counter({(MESSAGE, 1): 1, (MESSAGE, 2): 1})


def check_one_commit(cluster: Cluster, client: Client) -> None:
    """One turn with one set of messages, whoever else tried."""
    assert cluster.answers(client, SESSION) == [f"answer: {MESSAGE}"]
    assert len(cluster.said(client, SESSION)) == 4
    assert cluster.fence(client, SESSION) == 3, "opened, opened again, committed once"


@pytest.mark.shows("L14")
def test_a_turn_of_five_lease_times_stays_with_its_worker(cluster: Cluster, client: Client) -> None:
    with cluster.two_workers():
        receipt = begin(cluster, client)
        with redis.Redis.from_url(cluster.environment["LASH_REDIS_URL"]) as connection:
            token = connection.get(LEASE).decode().rstrip("!")
            rung_for(receipt, 5 * TTL)
            assert connection.get(LEASE).decode().rstrip("!") == token
        check_one_opening(cluster, client, receipt)


@pytest.mark.shows("L14")
def test_a_worker_that_was_frozen_for_two_lease_times_commits_nothing(cluster: Cluster, client: Client) -> None:
    with cluster.two_workers() as pair:
        receipt = begin(cluster, client)
        zombie = cluster.driver(client, pair)
        zombie.signal(signal.SIGSTOP)
        wait_until(lambda: cluster.tool_counts()[MESSAGE] == 2, 5 * TTL + 10, "the other to take over")
        rung_for(receipt, TTL)
        cluster.hold.unlink()
        assert receipt.result(timeout=20).ok
        zombie.signal(signal.SIGCONT)
        wait_until(lambda: is_over(zombie), 20, "the zombie to give up")
        check_one_commit(cluster, client)
        first, second = cluster.tool_runs()
        assert (first["pid"], first["key"]) == (zombie.pid, second["key"])
        assert client.send(SESSION, "next", agent="counter").result(timeout=20).turn_index == 2


def is_over(worker: WorkerProcess) -> bool:
    """Whether the worker has ended the task that its turn ran in."""
    return any("fenced" in line or "committed" in line for line in worker.text().splitlines() if "succeeded" in line)


@pytest.mark.shows("L17")
def test_a_flushall_in_mid_turn_lets_a_second_worker_have_the_lease_and_nobody_else_the_turn(
    cluster: Cluster, client: Client, private_redis: PrivateRedis
) -> None:
    with cluster.two_workers(), redis.Redis.from_url(private_redis.url) as connection:
        receipt = begin(cluster, client)
        for _ in range(5):
            connection.flushall()
            rung_for(receipt, TTL / 3)
        check_one_opening(cluster, client, receipt)


@pytest.mark.shows("L17")
def test_of_two_workers_that_think_they_have_the_lease_one_commits(
    cluster: Cluster, client: Client, private_redis: PrivateRedis
) -> None:
    """The first is frozen and does not know that its lease is gone; the second commits; the first comes too late."""
    with cluster.two_workers() as pair, redis.Redis.from_url(private_redis.url) as connection:
        receipt = begin(cluster, client)
        first = cluster.driver(client, pair)
        first.signal(signal.SIGSTOP)
        connection.flushall()
        receipt.ring()
        wait_until(lambda: cluster.tool_counts()[MESSAGE] == 2, 5 * TTL + 10, "the other to take over")
        cluster.hold.unlink()
        first.signal(signal.SIGCONT)
        assert receipt.result(timeout=20).ok
        wait_until(lambda: is_over(first), 20, "the first to give up")
        check_one_commit(cluster, client)


@pytest.mark.shows("L19")
@pytest.mark.parametrize("lost", ["postgres", "redis"])
def test_a_blip_of_a_server_shorter_than_the_lease_stops_no_turn(
    tmp_path: Path, private_redis: PrivateRedis, endpoint: ModelEndpoint, lost: str
) -> None:
    with PrivatePostgres() as postgres:
        cluster = Cluster(tmp_path, postgres.url, private_redis.url, endpoint, ttl=8.0)
        cluster.hold.touch()
        with cluster.two_workers() as pair, cluster.client() as before:
            receipt = begin(cluster, before)
            driver = cluster.driver(before, pair)
            beats = "could not be stored" if lost == "postgres" else "leases could not be renewed"
            server: PrivatePostgres | PrivateRedis = postgres if lost == "postgres" else private_redis
            server.restart(
                after=lambda: wait_until(lambda: beats in driver.text(), 6, "the worker to miss a sign of life")
            )
            with cluster.client() as client:
                receipt = client.receipt(SESSION, input_id=receipt.input_id)
                rung_for(receipt, 1.0)
                check_one_opening(cluster, client, receipt)


@pytest.mark.shows("L20")
@pytest.mark.parametrize("offset_ms", [TEN_MINUTES_MS, -TEN_MINUTES_MS])
def test_a_clock_that_is_ten_minutes_off_neither_steals_a_turn_nor_keeps_one(
    cluster: Cluster, client: Client, offset_ms: int
) -> None:
    off = {"LASH_TEST_CLOCK_OFFSET_MS": str(offset_ms)}
    with cluster.worker(environment=off) as wrong:
        receipt = begin(cluster, client)
        with cluster.worker():
            rung_for(receipt, 2 * TTL)
            assert cluster.fence(client, SESSION) == 1, "nobody took it from the worker whose clock is off"
            wrong.kill()
            wait_until(lambda: cluster.tool_counts()[MESSAGE] == 2, TTL + 5, "the other to take over")
            with cluster.worker(environment=off):
                rung_for(receipt, 2 * TTL)
                assert cluster.fence(client, SESSION) == 2, "nor did such a worker take it from the other"
                cluster.hold.unlink()
                assert receipt.result(timeout=20).ok
                check_one_commit(cluster, client)
