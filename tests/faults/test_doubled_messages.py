"""Messages that come twice, at one time or late: they start nothing that runs already or has run."""

from __future__ import annotations

from collections import Counter

import pytest

from lash_tasks.celery import create_celery
from lash_tasks.client import Client
from lash_tasks.clock import SystemClock
from lash_tasks.queues import ROUTES, Task
from tests.faults.cluster import Cluster, WorkerProcess
from tests.faults.conftest import LEASE_TTL
from tests.services import wait_until

SESSION = "matrix"
COPIES = 10

pytestmark = pytest.mark.timeout(120)


def deliver(cluster: Cluster, turn_id: str) -> None:
    """The messages that ring for a session and for its turn, several of each."""
    app = create_celery("twice", cluster.environment["LASH_REDIS_URL"], only_sends=True)
    for task, arguments in ((Task.RUN_SESSION, [SESSION]), (Task.RESUME_TURN, [SESSION, turn_id])):
        for _ in range(COPIES):
            app.send_task(task.value, args=arguments, queue=ROUTES[task].value, ignore_result=True)
    app.close()


def verdicts(workers: list[WorkerProcess]) -> Counter[str]:
    """What became of the messages that the workers have been through."""
    lines = [line for worker in workers for line in worker.text().splitlines() if " succeeded in " in line]
    return Counter(line.rsplit("'", 2)[1] for line in lines if "run_session" in line or "resume_turn" in line)


def turn_id(client: Client) -> str:
    (record,) = client.stores.sessions.turns(client.stores.sessions.sessions()[0].session_id)
    return record.turn_id


@pytest.mark.shows("T14")
def test_a_message_that_comes_again_and_again_makes_one_turn(cluster: Cluster) -> None:
    message = "m [hold]"
    cluster.hold.touch()
    with cluster.two_workers() as pair, cluster.client() as client:
        receipt = client.send(SESSION, message, agent="counter")
        wait_until(lambda: cluster.tool_counts()[message] == 1, 20, "the tool to begin")
        deliver(cluster, turn_id(client))
        wait_until(lambda: verdicts(pair)["busy"] >= 2 * COPIES, 20, "every copy to be turned away")
        cluster.hold.unlink()
        answer = receipt.result(timeout=20)
        before = verdicts(pair).total()
        deliver(cluster, turn_id(client))
        wait_until(lambda: verdicts(pair).total() >= before + 2 * COPIES, 20, "every late copy to be over")

        assert {"busy", "committed"} <= set(verdicts(pair)) <= {"busy", "committed", "nothing"}
        assert verdicts(pair)["committed"] == 1
        assert cluster.turns(client, SESSION) == [answer]
        assert receipt.result(timeout=1) == answer
        assert len(cluster.said(client, SESSION)) == 4
        assert cluster.count(client, "lash_turns WHERE stamp IS NOT NULL") == 1
        assert cluster.tool_counts() == {message: 1}
        assert cluster.model_calls() == {(message, 1): 1, (message, 2): 1}


@pytest.mark.shows("Q25")
def test_input_that_has_joined_a_long_turn_is_in_it_once(cluster: Cluster) -> None:
    """Its turn lasts three leases longer, and everybody rings for the session meanwhile."""
    first, joined = "m [hold]", "joined [hold 2]"
    cluster.hold.touch()
    second_hold = cluster.hold.with_name("hold 2")
    second_hold.touch()
    clock = SystemClock()
    with cluster.two_workers(), cluster.client() as client:
        receipt = client.send(SESSION, first, agent="counter")
        wait_until(lambda: cluster.tool_counts()[first] == 1, 20, "the tool to begin")
        client.send(SESSION, joined, agent="counter", when="steer")
        cluster.hold.unlink()
        wait_until(lambda: cluster.tool_counts()[joined] == 1, 20, "the joined input's tool to begin")
        until = clock.monotonic() + 3 * LEASE_TTL

        def over() -> bool:
            receipt.ring()
            return clock.monotonic() >= until

        wait_until(over, 4 * LEASE_TTL, "three leases to pass")
        second_hold.unlink()
        assert receipt.result(timeout=20).text == f"answer: {joined}"
        assert [text for role, text in cluster.said(client, SESSION) if role == "user" and text] == [first, joined]
        assert cluster.unfinished(client) == 0
        assert cluster.fence(client, SESSION) == 2, "opened once, committed once"
        assert cluster.model_calls() == {(first, 1): 1, (joined, 1): 1, (joined, 2): 1}
