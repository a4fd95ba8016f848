"""An app that declares its queues otherwise than we do, on RabbitMQ, where all have to declare a queue alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_tasks import Client
from tests.endpoint import ModelEndpoint
from tests.faults.cluster import ROOT, Cluster
from tests.services import wait_until

APPLICATION = "tests.existing_app.topics"
OWN = f"from {APPLICATION} import double; print(double.delay(21).get(timeout=30))"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str, redis_url: str, rabbitmq_url: str) -> Iterator[Cluster]:
    with ModelEndpoint() as endpoint:
        cluster = Cluster(tmp_path, postgres_url, redis_url, endpoint, 3.0)
        cluster.settings = cluster.settings.model_copy(update={"broker_url": rabbitmq_url})
        cluster.environment |= {"TOPICS_BROKER_URL": rabbitmq_url, "LASH_BROKER_URL": rabbitmq_url}
        yield cluster


def test_topics_and_priorities_of_an_app_and_our_queues_keep_apart(cluster: Cluster) -> None:
    def answered(client: Client, text: str) -> bool:
        return text in client.send("s", text, agent="echo").result(timeout=30).text

    # Nobody sweeps: what is answered was rung for.
    queues = ("-Q", "own,lash.ingress,lash.turns,lash.checkpoints")
    with cluster.client() as client:
        with cluster.worker(*queues, application=APPLICATION) as worker:
            assert answered(client, "declared by the worker first")
            own = [sys.executable, "-c", OWN]
            doubled = subprocess.run(own, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, check=True)
            assert doubled.stdout.strip() == "42"
        with cluster.worker(application=APPLICATION) as again:
            assert answered(client, "declared by the client first")
            wait_until(lambda: "lash.run_session" in again.text().split(" ready.")[1], 10, "the doorbell")
            for log in (worker, again):
                assert "unregistered" not in log.text()
                assert "PRECONDITION_FAILED" not in log.text()
