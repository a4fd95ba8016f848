"""examples/existing_app, run for real: the shop's own tasks and an agent's turns share workers, broker and beat."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from tests.endpoint import ModelEndpoint
from tests.faults.cluster import ROOT, Cluster, WorkerProcess
from tests.services import PrivateRedis, wait_until

EXAMPLE = ROOT / "examples" / "existing_app"
SENDER = """
from bookshop.tasks import Parcel, print_label, take_stock
print(print_label.delay(Parcel("Dune", "Arrakis")).get(timeout=30), take_stock.delay().get(timeout=30))
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str) -> Iterator[Cluster]:
    """Our Redis is another one than the shop's broker."""
    with PrivateRedis() as ours, ModelEndpoint() as endpoint:
        yield Cluster(tmp_path, postgres_url, ours.url, endpoint, 3.0)


@pytest.fixture
def broker() -> Iterator[str]:
    with PrivateRedis() as server:
        yield server.url


def own_tasks(variables: dict[str, str]) -> str:
    """What the shop's own code gets for its own tasks, in a process that has read no setting of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LASH_")}
    sender = subprocess.run(
        [sys.executable, "-c", SENDER],
        cwd=EXAMPLE,
        env={**clean, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert sender.returncode == 0, sender.stderr[-3000:]
    return sender.stdout.strip()


def done(worker: WorkerProcess, task: str) -> bool:
    return any(task in line and "succeeded" in line for line in worker.text().splitlines())


def test_the_shops_tasks_and_an_agents_turns_run_side_by_side(cluster: Cluster, broker: str) -> None:
    shop = {"BOOKSHOP_BROKER_URL": broker, "C_FORCE_ROOT": "1"}  # Celery wants no root where it unpickles
    without_us = {name: "" for name in cluster.environment if name.startswith("LASH_")}
    worker = partial(cluster.worker, application="bookshop", directory=EXAMPLE)
    with (
        worker(environment=shop) as everything,
        worker("-Q", "labels", environment={**shop, **without_us}) as labels,
        cluster.client() as client,
    ):
        assert own_tasks(shop) == "Dune → Arrakis 0"
        turn = client.send("reader", "12 Castle Street", agent="clerk").result(timeout=30)
        assert turn.text == "answer: 12 Castle Street"
        (call,) = turn.tool_calls
        assert call.tool == "ship"

        # Each worker has done what was its own, the label of the agent's parcel too.
        wait_until(lambda: labels.text().count("succeeded") == 2, 20, "both labels")
        assert "12 Castle Street" in labels.text()
        assert done(everything, "bookshop.tasks.take_stock")
        wait_until(lambda: done(everything, "lash.run_session"), 20, "our task to end")
        assert "lash" not in labels.text().split("ready.")[1]
        assert "DeprecationWarning" not in everything.text()
        with redis.Redis.from_url(broker) as connection:
            results = list(connection.scan_iter("celery-task-meta-*"))
        assert len(results) == 3, "the shop's results are kept, our doorbells leave none"
        assert len(client.stores.fleet.workers()) == 1
