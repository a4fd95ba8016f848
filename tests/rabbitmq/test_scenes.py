"""Workers on RabbitMQ: load, take-over, drain, foreign clients, and a broker that goes away in mid-load."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from lash_tasks.client import Receipt
from tests.faults.cluster import Cluster
from tests.faults.load import ROUNDS, check_answers, run_with_loss, send_round
from tests.faults.test_foreign_celery import send_foreign
from tests.faults.test_kills import TAKE_OVER_SECONDS, kill_in_the_middle
from tests.rabbitmq.server import PrivateRabbitMQ
from tests.services import PrivateRedis, wait_until

pytestmark = pytest.mark.timeout(240)


def test_every_message_is_answered_once_and_in_order_and_redis_sees_no_message(
    cluster: Cluster, private_redis: PrivateRedis
) -> None:
    with cluster.worker(), cluster.worker(), cluster.client() as client:
        receipts = [receipt for number in range(ROUNDS) for receipt in send_round(client, number)]
        for receipt in receipts:
            assert receipt.result(timeout=90).ok
        check_answers(cluster, client)
        with redis.Redis.from_url(private_redis.url) as connection:
            keys = {key.decode() for key in connection.scan_iter("*")}
        assert keys, "leases and live events"
        assert {key for key in keys if not key.startswith("lash::")} == set()


def test_a_kill_is_taken_over_as_soon_as_with_redis(cluster: Cluster, report: Callable[[str, float], None]) -> None:
    cluster.hold.touch()
    message = "tool [hold]"
    receipt, seconds, client = kill_in_the_middle(
        cluster, "counter", message, lambda: cluster.tool_counts()[message] == 1
    )
    with client:
        assert receipt.result(timeout=5).text == f"answer: {message}"
        assert cluster.model_calls() == {(message, 1): 1, (message, 2): 1}
    report("seconds from kill to commit", seconds)
    assert seconds < TAKE_OVER_SECONDS


@pytest.mark.parametrize("loss", ["killed and restarted", "connections closed"])
def test_a_broker_that_goes_away_in_mid_load_changes_latency_only(
    cluster: Cluster, rabbitmq: PrivateRabbitMQ, loss: str
) -> None:
    """A worker that had connected again once heard nothing for half a minute.

    Celery raised its prefetch count from the pool's threads, each reading the answer off the connection that the main
    thread was reading, and so the frames got mixed up.
    """

    def lose_the_broker() -> None:
        if loss == "connections closed":
            rabbitmq.close_connections()
        else:
            rabbitmq.kill()
            rabbitmq.start()

    for worker in run_with_loss(cluster, lose_the_broker):
        assert "UnexpectedFrame" not in worker.text()


def test_a_sender_is_held_up_by_no_broker_that_is_down_or_has_dropped_its_connection(
    cluster: Cluster, rabbitmq: PrivateRabbitMQ
) -> None:
    def send_quickly(text: str) -> Receipt:
        started = time.monotonic()
        receipt = client.send("sender", text, agent="counter")
        assert time.monotonic() - started < 2.0
        return receipt

    with cluster.worker(), cluster.client() as client:
        assert send_quickly("at first").result(timeout=30).ok
        rabbitmq.close_connections()
        assert send_quickly("on a connection that is gone").result(timeout=30).ok
        rabbitmq.kill()
        down = [send_quickly(f"while it is down {number}") for number in range(3)]
        rabbitmq.start()
        for receipt in down:
            assert receipt.result(timeout=60).ok


def test_a_foreign_celery_client_sends_over_amqp(cluster: Cluster, tmp_path: Path) -> None:
    message = {"session_id": "foreign", "text": "hello", "agent": "counter", "idempotency_key": "f-1"}
    backend = {"LASH_TEST_RESULT_BACKEND": str(cluster.settings.redis_url)}
    with cluster.client() as client, cluster.worker(environment=backend):
        first, second = send_foreign(cluster, tmp_path, ("lash.send", message), ("lash.send", message))
        (bad,) = send_foreign(cluster, tmp_path, ("lash.send", {**message, "text": 7}))
        assert first["receipt"]["created"] is True
        assert second["receipt"] == {**first["receipt"], "created": False}
        assert bad["error"].startswith("text: ")
        assert client.receipt("foreign", idempotency_key="f-1").result(timeout=30).text == "answer: hello"


def test_a_drained_worker_hands_its_turn_on(cluster: Cluster) -> None:
    text = "long [stall 2]"
    with cluster.worker(environment={"LASH_DRAIN_GRACE": "1"}) as one, cluster.client() as client:
        receipt = client.send("drain", text, agent="counter")
        wait_until(lambda: cluster.model_calls()[(text, 2)] == 1, 20, "the second model call")
        one.signal(signal.SIGTERM)
        assert one.wait(30) == 0
        with cluster.worker():
            assert receipt.result(timeout=20).text == f"answer: {text}"
        assert cluster.tool_counts() == {text: 1}


def test_a_busy_worker_hoards_no_doorbell_for_long(cluster: Cluster) -> None:
    """RabbitMQ hands a worker as many messages ahead as it has threads; the sweep rings elsewhere for those."""
    cluster.hold.touch()
    with cluster.worker(concurrency=2), cluster.client() as client:
        for number in range(2):
            client.send(f"long-{number}", f"long {number} [hold]", agent="counter")
        wait_until(lambda: len(cluster.tool_runs()) == 2, 20, "both threads to be busy")
        hoarded = [client.send(f"short-{number}", f"short {number}", agent="counter") for number in range(2)]
        with cluster.worker(concurrency=2):
            for receipt in hoarded:
                assert receipt.result(timeout=20).ok
        cluster.hold.unlink()
