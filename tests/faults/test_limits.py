"""Two Celery workers before a provider that takes one call at a time, and the death of the one whose call it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.faults.cluster import Cluster
from tests.faults.conftest import LEASE_TTL
from tests.faults.test_kills import TAKE_OVER_SECONDS
from tests.services import wait_until

pytestmark = pytest.mark.timeout(120)

OTHERS = [f"other-{number}" for number in range(6)]


def test_the_place_of_a_killed_worker_comes_back_and_all_are_answered(
    cluster: Cluster, report: Callable[[str, float], None]
) -> None:
    with cluster.worker() as one, cluster.worker() as two, cluster.client() as client:
        stalled = client.send("stalled", "model [stall]", agent="patient")
        wait_until(lambda: cluster.model_calls()["model [stall]", 1] == 1, 20, "the call that stalls")
        victim = cluster.driver(client, [one, two])
        receipts = [client.send(session, f"hello {session}", agent="patient") for session in OTHERS]
        wait_until(lambda: {receipt.status().state for receipt in receipts} == {"running"}, 20, "all to wait")
        assert len(cluster.endpoint.requests) == 1
        victim.kill()
        killed = time.monotonic()
        wait_until(lambda: len(cluster.endpoint.requests) > 1, 20, "the place of the dead")
        seconds = time.monotonic() - killed
        for session, receipt in zip(OTHERS, receipts, strict=True):
            assert receipt.result(timeout=60).text == f"answer: hello {session}"
        assert stalled.result(timeout=60).text == "answer: model [stall]"
        assert cluster.model_calls() == {
            ("model [stall]", 1): 2,
            **{(f"hello {session}", 1): 1 for session in OTHERS},
        }
    report("seconds from kill to the next call", seconds)
    assert LEASE_TTL / 3 < seconds < TAKE_OVER_SECONDS
