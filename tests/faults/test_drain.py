"""SIGTERM: nothing new is claimed, what runs gets its grace, what is left goes to another worker."""

from __future__ import annotations

import signal

import pytest

from tests.faults.cluster import Cluster
from tests.services import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_a_turn_that_fits_into_the_grace_ends_where_it_runs(cluster: Cluster, pool: str) -> None:
    text = "short [hold]"
    cluster.hold.touch()
    with cluster.worker(pool=pool, concurrency=2) as one, cluster.client() as client:
        receipt = client.send("drain", text, agent="counter")
        wait_until(lambda: cluster.tool_counts()[text] == 1, 20, "the tool to begin")
        one.signal(signal.SIGTERM)
        wait_until(lambda: "shutdown" in one.text().lower(), 10, "the worker to hear of it")
        cluster.hold.unlink()
        assert one.wait(30) == 0
        status = str(receipt.status())
        with cluster.worker(pool=pool, concurrency=2):
            assert receipt.result(timeout=30).ok, status
        assert cluster.tool_counts() == {text: 1}
        assert cluster.model_calls() == {(text, 1): 1, (text, 2): 1}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_model_call_that_outlasts_the_grace_is_given_up_and_made_elsewhere(cluster: Cluster, pool: str) -> None:
    text = "long [stall 2]"
    with (
        cluster.worker(pool=pool, concurrency=2, environment={"LASH_DRAIN_GRACE": "1"}) as one,
        cluster.client() as client,
    ):
        receipt = client.send("drain", text, agent="counter")
        wait_until(lambda: cluster.model_calls()[(text, 2)] == 1, 20, "the second model call")
        one.signal(signal.SIGTERM)
        assert one.wait(30) == 0
        assert str(receipt.status()) == "running"
        with cluster.worker(pool=pool, concurrency=2):
            assert receipt.result(timeout=20).text == f"answer: {text}"
        assert cluster.tool_counts() == {text: 1}
        assert cluster.model_calls() == {(text, 1): 1, (text, 2): 2}
