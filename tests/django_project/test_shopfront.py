"""examples/django, run for real: a view writes an order and sends in one transaction, a worker's tools use the ORM."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import text

from lash_tasks.client import Client
from tests.django_project.conftest import EXAMPLE
from tests.faults.cluster import Cluster
from tests.services import free_port, wait_until

pytestmark = pytest.mark.timeout(120)


@contextmanager
def site(project: Cluster) -> Iterator[httpx.Client]:
    """A client of the project's development server."""
    port = free_port()
    command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"]
    log = (project.directory / "site.log").open("wb")
    with log, subprocess.Popen(command, cwd=EXAMPLE, env=project.environment, stdout=log, stderr=log) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                wait_until(lambda: _answers(http), 30, "the site to answer")
                yield http
        finally:
            server.terminate()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/orders/none/").status_code == 404
    except httpx.TransportError:
        return False


def count(client: Client, statement: str) -> int:
    with client.stores.database.reading() as connection:
        return int(connection.execute(text(statement)).scalar_one())


BATCHES = "SELECT count(*) FROM lash_batches"
DJANGO_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shopfront'"


def test_an_order_and_its_message_land_together_or_not_at_all(project: Cluster) -> None:
    # Nobody sweeps here: what comes to the worker was rung for when the transaction had committed.
    queues = "lash.ingress,lash.turns,lash.checkpoints"
    worker = project.worker("-Q", queues, application="shopfront", directory=EXAMPLE)
    with worker, site(project) as http, project.client() as client:
        placed = http.post("/orders/", data={"reference": "A-1"})
        assert placed.status_code == 202, placed.text

        turn = client.receipt("order-A-1", input_id=placed.json()["input_id"]).result(timeout=30)
        assert turn.text == "confirmed, 0; You look after the orders of a shop, 1 so far. Confirm each new one."
        assert http.get("/orders/A-1/").json() == {"reference": "A-1", "state": "confirmed"}

        again = http.post("/orders/", data={"reference": "A-1"})
        assert again.status_code == 409
        assert count(client, BATCHES) == 1, "the message of an order that was rolled back went with it"

        # CONN_MAX_AGE is 0: neither a tool, nor a coroutine, nor the instructions leave a connection behind.
        wait_until(lambda: count(client, DJANGO_CONNECTIONS) == 0, 10, "Django's connections to be closed")
