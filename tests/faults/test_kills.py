"""A worker is killed in the middle of a turn: another takes over, and what is recorded is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lash_tasks.client import Client, Receipt
from lash_tasks.errors import ErrorCode
from lash_tasks.runtime.crash_points import CrashPoint
from tests.endpoint import ModelEndpoint
from tests.faults.cluster import Cluster
from tests.faults.conftest import LEASE_TTL
from tests.services import wait_until

TAKE_OVER_SECONDS = LEASE_TTL + 2.0
"""A lease lives so long after its last renewal, and the successor comes at most two seconds later."""

pytestmark = pytest.mark.timeout(120)


def kill_in_the_middle(
    cluster: Cluster, agent: str, message: str, middle: Callable[[], object]
) -> tuple[Receipt, float, Client]:
    """Send, wait for the `middle` of the turn, kill the worker that is in it; the receipt and the time to commit."""
    with cluster.worker() as one, cluster.worker() as two:
        client = cluster.client()
        receipt = client.send("kill", message, agent=agent)
        wait_until(middle, 20, "the middle of the turn")
        victim = cluster.driver(client, [one, two])
        victim.kill()
        killed = time.monotonic()
        cluster.hold.unlink(missing_ok=True)
        receipt.result(timeout=60)
        return receipt, time.monotonic() - killed, client


def test_a_kill_inside_a_model_call_repeats_only_that_call(
    cluster: Cluster, endpoint: ModelEndpoint, report: Callable[[str, float], None]
) -> None:
    message = "model [stall 2]"
    receipt, seconds, client = kill_in_the_middle(
        cluster, "counter", message, lambda: cluster.model_calls()[(message, 2)] == 1
    )
    with client:
        assert receipt.result(timeout=5).text == f"answer: {message}"
        assert cluster.model_calls() == {(message, 1): 1, (message, 2): 2}
        assert cluster.tool_counts() == {message: 1}
    report("seconds from kill to commit", seconds)
    assert seconds < TAKE_OVER_SECONDS


@pytest.mark.shows("Q26")
def test_a_kill_inside_a_retryable_tool_runs_it_again_under_the_same_key(
    cluster: Cluster, report: Callable[[str, float], None]
) -> None:
    cluster.hold.touch()
    message = "tool [hold]"
    receipt, seconds, client = kill_in_the_middle(
        cluster, "counter", message, lambda: cluster.tool_counts()[message] == 1
    )
    with client:
        assert receipt.result(timeout=5).text == f"answer: {message}"
        assert cluster.model_calls() == {(message, 1): 1, (message, 2): 1}
        assert [text for role, text in cluster.said(client, "kill") if role == "user" and text] == [message]
        first, second = cluster.tool_runs()
        assert first["key"] == second["key"]
        assert first["pid"] != second["pid"]
    report("seconds from kill to commit", seconds)
    assert seconds < TAKE_OVER_SECONDS


def test_a_kill_inside_a_never_tool_does_not_run_it_again(
    cluster: Cluster, report: Callable[[str, float], None]
) -> None:
    cluster.hold.touch()
    message = "charge [hold]"
    receipt, seconds, client = kill_in_the_middle(
        cluster, "charger", message, lambda: cluster.tool_counts()[message] == 1
    )
    with client:
        turn = receipt.result(timeout=5)
        assert turn.ok
        (call,) = turn.tool_calls
        assert call.outcome.failure is not None
        assert call.outcome.failure.code == ErrorCode.TOOL_ATTEMPT_INTERRUPTED
        assert cluster.tool_counts() == {message: 1}
        assert cluster.model_calls() == {(message, 1): 1, (message, 2): 1}
    report("seconds from kill to commit", seconds)
    assert seconds < TAKE_OVER_SECONDS


def test_a_kill_between_commit_and_the_next_claim_loses_nothing(
    cluster: Cluster, report: Callable[[str, float], None]
) -> None:
    """One worker dies right after a commit, with the session's lease in hand and more input waiting."""
    cluster.die_once.touch()
    at = {"LASH_TEST_DIE_AT": CrashPoint.AFTER_COMMIT.value}
    with cluster.worker(environment=at), cluster.worker(environment=at), cluster.client() as client:
        receipts = [client.send("kill", f"m{number}", agent="counter") for number in range(3)]
        wait_until(lambda: not cluster.die_once.exists(), 20, "a worker to die")
        killed = time.monotonic()
        for receipt in receipts:
            assert receipt.result(timeout=60).ok
        seconds = time.monotonic() - killed
        assert cluster.answers(client, "kill") == ["answer: m0", "answer: m1", "answer: m2"]
        assert cluster.model_calls() == {(f"m{n}", call): 1 for n in range(3) for call in (1, 2)}
        assert cluster.tool_counts() == {f"m{n}": 1 for n in range(3)}
    report("seconds from kill to commit", seconds)
    assert seconds < TAKE_OVER_SECONDS
