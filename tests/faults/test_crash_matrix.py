"""A worker dies at each named place of a turn, or stops there and wakes: the turn comes to the same end, once.

Each row of the matrix counts provider calls, messages, inputs and stamps, and sends one more input behind it: nothing
that the dead worker held may be in its way.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import text as sql

from lash_tasks.client import Client
from lash_tasks.runtime.crash_points import CrashPoint
from tests.endpoint import ModelEndpoint
from tests.faults.cluster import ROOT, Cluster, WorkerProcess
from tests.services import PrivateRedis, wait_until

TTL = 2.0
SESSION = "matrix"
PLAIN = Counter({("m", 1): 1, ("m", 2): 1})
"""What the model is asked in a turn with one tool call."""

SENDS_AND_DIES = """
import os, signal
from lash_tasks import Client
from lash_tasks.clock import SystemClock
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_stores
from lash_tasks.wiring import client_parts

class Dies:
    def ring_session(self, session_id):
        os.kill(os.getpid(), signal.SIGKILL)

settings = Settings.from_environment()
stores = open_stores(settings, allow_memory_leases=True)
parts = client_parts(settings, stores, Dies(), SystemClock(), stores.close)
Client.from_parts(parts).send("matrix", "m", agent="counter")
"""

pytestmark = [pytest.mark.timeout(120), pytest.mark.shows("T13")]


@pytest.fixture
def cluster(tmp_path: object, postgres_url: str, private_redis: PrivateRedis, endpoint: ModelEndpoint) -> Cluster:
    """With a short lease, because every row waits for one."""
    return Cluster(tmp_path, postgres_url, private_redis.url, endpoint, TTL)  # type: ignore[arg-type]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def send(client: Client, text: str) -> None:
    client.send(SESSION, text, agent="counter")


def frozen(workers: Sequence[WorkerProcess]) -> list[WorkerProcess]:
    """Those that are stopped. On a slow machine the turn of one may be another's by the time that one looks."""
    return [worker for worker in workers if state_of(worker).startswith("T")]


def state_of(worker: WorkerProcess) -> str:
    asked = ["ps", "-o", "stat=", "-p", str(worker.pid)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def died(cluster: Cluster) -> bool:
    return not cluster.die_once.exists()


def ended_in(worker: WorkerProcess) -> str:
    """The lines of a worker's log about tasks that are over."""
    return "\n".join(line for line in worker.text().splitlines() if " succeeded in " in line)


def check(cluster: Cluster, client: Client, calls: Counter[tuple[str, int]] = PLAIN, inputs: int = 1) -> None:
    """What the matrix wants of the turn; and the session goes on."""
    wait_until(lambda: cluster.unfinished(client) == 0, 30, "every input to have its end")
    assert cluster.model_calls() == calls
    assert cluster.tool_counts() == {text: 1 for text, call in calls if call == 1}
    assert len(cluster.said(client, SESSION)) == 3 * inputs + 1
    assert cluster.count(client, "lash_batches WHERE state = 'consumed'") == inputs
    assert cluster.count(client, "lash_turns WHERE stamp IS NOT NULL") == 1
    turn = client.send(SESSION, "next", agent="counter").result(timeout=20)
    assert (turn.text, turn.turn_index) == ("answer: next", 2)
    assert cluster.count(client, "lash_turns") == 2


def test_an_input_whose_sender_dies_before_it_rings_is_answered(cluster: Cluster, client: Client) -> None:
    with cluster.two_workers():
        sender = subprocess.run([sys.executable, "-c", SENDS_AND_DIES], cwd=ROOT, env=cluster.environment, check=False)
        assert sender.returncode == -signal.SIGKILL
        check(cluster, client)


@pytest.mark.parametrize(
    ("point", "passing"),
    [
        (CrashPoint.AFTER_LEASE, 1),
        (CrashPoint.AFTER_OPEN, 1),
        (CrashPoint.AFTER_RECORD, 1),
        (CrashPoint.AFTER_RECORD, 3),
        (CrashPoint.AFTER_COMMIT, 1),
        (CrashPoint.AFTER_ANNOUNCE, 1),
        (CrashPoint.AFTER_RELEASE, 1),
    ],
)
@pytest.mark.shows("Q26")
def test_a_worker_killed_at_any_place_of_a_turn_repeats_nothing_that_is_recorded(
    cluster: Cluster, client: Client, point: CrashPoint, passing: int
) -> None:
    cluster.die_once.touch()
    with cluster.two_workers(LASH_TEST_DIE_AT=point.value, LASH_TEST_DIE_PASSING=str(passing)):
        send(client, "m")
        wait_until(lambda: died(cluster), 20, "a worker to die")
        client.receipt(SESSION, input_id=input_id(client)).ring()  # as if the message came again
        check(cluster, client)


def input_id(client: Client) -> str:
    with client.stores.database.reading() as connection:
        return str(connection.execute(sql("SELECT id FROM lash_batches")).scalar_one())


def test_a_worker_killed_after_input_has_joined_leaves_it_in_the_turn_once(cluster: Cluster, client: Client) -> None:
    cluster.die_once.touch()
    cluster.hold.touch()
    with cluster.two_workers(LASH_TEST_DIE_AT=CrashPoint.AFTER_CHECKPOINT.value):
        send(client, "m [hold]")
        wait_until(lambda: cluster.tool_counts()["m [hold]"] == 1, 20, "the tool to begin")
        client.send(SESSION, "joined", agent="counter", when="steer")
        cluster.hold.unlink()
        wait_until(lambda: died(cluster), 20, "a worker to die")
        wait_until(lambda: cluster.unfinished(client) == 0, 30, "every input to have its end")
        assert [text for role, text in cluster.said(client, SESSION) if role == "user" and text].count("joined") == 1
        check(cluster, client, Counter({("m [hold]", 1): 1, ("joined", 1): 1, ("joined", 2): 1}), inputs=2)


def test_a_worker_killed_inside_its_commit_leaves_all_of_the_turn_or_nothing(cluster: Cluster, client: Client) -> None:
    cluster.hold.touch()
    with cluster.two_workers() as pair, cluster.client() as other:
        send(client, "m [hold]")
        wait_until(lambda: cluster.tool_counts()["m [hold]"] == 1, 20, "the tool to begin")
        victim = cluster.driver(client, pair)
        with other.stores.database.transaction() as connection:
            connection.execute(sql("SELECT 1 FROM lash_batches FOR UPDATE"))
            cluster.hold.unlink()
            waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            wait_until(lambda: cluster.count(client, waiting) > 0, 20, "the commit to wait for the lock")
            victim.kill()
            assert cluster.said(client, SESSION) == []
            assert cluster.count(client, "lash_turns WHERE stamp IS NOT NULL") == 0
        check(cluster, client, Counter({("m [hold]", 1): 1, ("m [hold]", 2): 1}))


@pytest.mark.shows("L14", "L17")
def test_a_worker_that_wakes_before_its_commit_after_another_took_over_commits_nothing(
    cluster: Cluster, client: Client
) -> None:
    cluster.die_once.touch()
    stop = {"LASH_TEST_DIE_AT": CrashPoint.BEFORE_COMMIT.value, "LASH_TEST_DIE_BY": "SIGSTOP"}
    with cluster.two_workers(**stop) as pair:
        send(client, "m")
        [zombie] = wait_until(lambda: frozen(pair), 20, "a worker to stop")
        wait_until(lambda: cluster.unfinished(client) == 0, 30, "the other to commit")
        zombie.signal(signal.SIGCONT)
        wait_until(lambda: "lash.run_session" in ended_in(zombie), 20, "the late commit to be over")
        assert cluster.fence(client, SESSION) == 3, "opened, opened again, committed once"
        check(cluster, client)
        assert all(worker.running for worker in pair)
