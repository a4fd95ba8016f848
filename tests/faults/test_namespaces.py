"""Two applications on one database, one broker and one Redis, with the same sessions and the same agents."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.endpoint import ModelEndpoint
from tests.faults.cluster import Cluster
from tests.faults.conftest import LEASE_TTL
from tests.services import PrivateRedis

SESSIONS = 10
MESSAGES = 2

pytestmark = pytest.mark.timeout(180)


def test_two_namespaces_take_nothing_of_each_others(
    tmp_path: Path, postgres_url: str, private_redis: PrivateRedis, endpoint: ModelEndpoint
) -> None:
    """Only LASH_NAMESPACE differs. Each gets every answer from its own worker, and a worker of one serves not both."""

    def application(namespace: str) -> Cluster:
        directory = tmp_path / namespace
        directory.mkdir()
        return Cluster(directory, postgres_url, private_redis.url, endpoint, LEASE_TTL, namespace=namespace)

    one, other = application("one"), application("other")
    with one.client() as here, other.client() as there:
        with one.worker() as first:
            with other.worker():
                receipts = [
                    client.send(f"s{session}", f"{name} s{session} m{number}", agent="counter", idempotency_key=key)
                    for number in range(MESSAGES)
                    for session in range(SESSIONS)
                    for name, client in (("one", here), ("other", there))
                    for key in [f"key-{session}-{number}"]
                ]
                for receipt in receipts:
                    assert receipt.created
                    assert receipt.result(timeout=90).ok
            left = there.send("s0", "nobody serves me", agent="counter")
            assert here.send("s0", "I am served", agent="counter").result(timeout=60).ok
            assert left.status().state == "queued"
            assert "nobody serves me" not in first.text()
            assert [worker.live for worker in here.stores.fleet.workers()] == [True]

        for name, cluster, client in (("one", one, here), ("other", other, there)):
            for session in range(1, SESSIONS):
                expected = [f"answer: {name} s{session} m{number}" for number in range(MESSAGES)]
                assert cluster.answers(client, f"s{session}") == expected
            assert {run["text"].split()[0] for run in cluster.tool_runs()} <= {name, "I"}
            assert len(client.stores.sessions.sessions()) == SESSIONS
        assert here.stores.queue.waiting() == []
        assert len(there.stores.queue.waiting()) == 1
    assert sum(one.model_calls().values()) == (2 * SESSIONS * MESSAGES + 1) * 2  # both ask the one endpoint
    with redis.Redis.from_url(private_redis.url) as connection:
        ours = {key.decode().split(":")[1] for key in connection.scan_iter("lash:*")}
        assert ours <= {"one", "other"}
        assert not connection.exists("lash.turns")
