"""Redis loses everything in mid-load: nothing is lost, nothing is committed twice, no running turn is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import redis

from lash_tasks.client import Client, Receipt
from tests.faults.cluster import Cluster
from tests.services import PrivateRedis, wait_until

SESSIONS = 20
MESSAGES = 3

pytestmark = pytest.mark.timeout(180)


def send_round(client: Client, number: int) -> list[Receipt]:
    return [client.send(f"loss-{n}", f"s{n} m{number}", agent="counter") for n in range(SESSIONS)]


def run_with_loss(cluster: Cluster, lose_redis: Callable[[], None]) -> None:
    """Keep a turn inside a held tool, load the workers, lose Redis twice, and look at what came out."""
    held = "kept [hold]"
    cluster.hold.touch()
    with cluster.worker() as one, cluster.worker() as two, cluster.client() as client:
        running = client.send("running", held, agent="counter")
        wait_until(lambda: cluster.tool_counts()[held] == 1, 20, "the held tool to begin")
        receipts = send_round(client, 0)
        lose_redis()
        receipts += send_round(client, 1)
        lose_redis()
        receipts += send_round(client, 2)
        for receipt in receipts:
            assert receipt.result(timeout=90).ok
        cluster.hold.unlink()
        assert running.result(timeout=30).ok

        assert one.running
        assert two.running
        assert cluster.tool_counts()[held] == 1, "the running turn was dropped and its tool ran again"
        for n in range(SESSIONS):
            assert cluster.answers(client, f"loss-{n}") == [f"answer: s{n} m{number}" for number in range(MESSAGES)]
        texts = [held, *(f"s{n} m{number}" for n in range(SESSIONS) for number in range(MESSAGES))]
        assert cluster.tool_counts() == Counter(texts)
        assert cluster.model_calls() == Counter({(text, call): 1 for text in texts for call in (1, 2)})
        assert cluster.unfinished(client) == 0


def test_a_flushall_in_mid_load_changes_latency_only(cluster: Cluster, private_redis: PrivateRedis) -> None:
    def flush() -> None:
        with redis.Redis.from_url(private_redis.url) as connection:
            connection.flushall()

    run_with_loss(cluster, flush)


def test_a_redis_restart_in_mid_load_changes_latency_only(cluster: Cluster, private_redis: PrivateRedis) -> None:
    run_with_loss(cluster, private_redis.restart)
