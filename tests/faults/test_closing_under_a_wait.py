"""A client is closed while threads of its process wait for results.

The story: a service that shuts down closes its client, and whoever was inside `result()` or `follow` got redis-py's
`ValueError: I/O operation on closed file`; who was between two looks opened connections of the closed client again,
which nobody closed any more.
"""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from sqlalchemy import text

from lash_tasks.client import Client, Receipt
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.errors import StoreUnavailable
from tests.faults.cluster import Cluster
from tests.services import wait_until

WAITING = 6
ROUNDS = 5

pytestmark = pytest.mark.timeout(120)


def test_whoever_waits_on_a_client_that_is_closed_is_told_so(cluster: Cluster) -> None:
    ends: Counter[str] = Counter()
    with cluster.client() as witness:
        witness.stores.fleet.register_agents([AgentSnapshot("counter", "openai:test", "Count.")])
        for round_ in range(ROUNDS):
            client = cluster.client()
            begun = threading.Barrier(2 * WAITING + 1)
            receipts = [client.send(f"close-{n}", "hello", agent="counter") for n in range(WAITING)]
            threads = [threading.Thread(target=wait, args=(receipt, begun, ends)) for receipt in receipts]
            threads += [threading.Thread(target=follow, args=(client, n, begun, ends)) for n in range(WAITING)]
            for thread in threads:
                thread.start()
            begun.wait()
            # The first rounds close at once, the later ones inside a blocking read.
            threading.Event().wait(0.2 * round_)
            client.close()
            for thread in threads:
                thread.join()
        assert ends == {"StoreUnavailable": 2 * WAITING * ROUNDS}

        def connections() -> int:
            ours = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            with witness.stores.database.reading() as connection:
                return int(connection.execute(text(ours)).scalar_one())

        wait_until(lambda: connections() == 0, 20, "the connections of closed clients to be gone")


def wait(receipt: Receipt, begun: threading.Barrier, ends: Counter[str]) -> None:
    begun.wait()
    try:
        receipt.result(timeout=60)
    except StoreUnavailable as error:
        ends[type(error).__name__] += 1


def follow(client: Client, number: int, begun: threading.Barrier, ends: Counter[str]) -> None:
    begun.wait()
    try:
        for _ in client.follow(f"close-{number}", idle_timeout=60):
            continue
    except StoreUnavailable as error:
        ends[type(error).__name__] += 1
