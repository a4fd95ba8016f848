"""An API key reaches the provider and nothing else; a user's words reach no log and no event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import text as sql

from lash_tasks.client import Client
from tests.endpoint import ModelEndpoint, Reply, converse, error_reply, last_user_text
from tests.faults.cluster import API_KEY, Cluster
from tests.services import PrivateRedis

WORDS = "my words are my own"

pytestmark = pytest.mark.timeout(120)


def gossip(request: dict[str, object]) -> Reply:
    """A provider that quotes the key it was given in its refusal, as some do."""
    if "refuse" in last_user_text(request):
        return error_reply(401, f"Incorrect API key provided: {API_KEY}", code="invalid_api_key")
    return converse(request)


def stored_values(client: Client) -> Iterator[bytes]:
    """Every value of every row of ours."""
    with client.stores.database.reading() as connection:
        tables = (
            connection.execute(sql("SELECT tablename FROM pg_tables WHERE tablename LIKE 'lash_%'")).scalars().all()
        )
        for table in tables:
            for row in connection.execute(sql(f"SELECT * FROM {table}")):
                for value in row:
                    yield bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


def redis_values(url: str) -> Iterator[bytes]:
    with redis.Redis.from_url(url) as connection:
        for key in connection.scan_iter():
            yield key
            if connection.type(key) == b"stream":
                yield repr(connection.xrange(key)).encode()
            elif connection.type(key) == b"string":
                yield connection.get(key) or b""


def test_the_key_is_in_no_row_no_log_and_no_error_and_words_are_in_no_log(
    cluster: Cluster, endpoint: ModelEndpoint, private_redis: PrivateRedis
) -> None:
    endpoint.script = gossip
    with cluster.worker("--loglevel", "DEBUG") as worker, cluster.client() as client:
        good = client.send("secret", WORDS, agent="counter").result(timeout=30)
        bad = client.send("secret", f"{WORDS} refuse", agent="counter").result(timeout=30)
        assert good.ok
        assert not bad.ok
        assert "401" in bad.errors[0].message
        assert any(seen.headers["authorization"] == f"Bearer {API_KEY}" for seen in endpoint.requests)
        secret = API_KEY.encode()
        assert not [value for value in stored_values(client) if secret in value]
        assert not [value for value in redis_values(private_redis.url) if secret in value]
        assert API_KEY not in repr(bad)
        assert API_KEY not in worker.text()
        assert WORDS not in worker.text()


ENDED = ("task-succeeded", "task-failed")


def test_the_words_of_an_ingress_message_are_in_no_event_and_no_log(cluster: Cluster) -> None:
    """Celery shows the arguments of a task in its events, which everybody may read who looks at Flower."""
    events: list[dict[str, Any]] = []
    good = {"session_id": "secret", "agent": "counter", "text": WORDS, "context": {"note": WORDS}}
    command = {"session_id": "secret", "agent": "counter", "kind": "append_session_nodes", "arguments": {"x": WORDS}}
    with (
        cluster.worker("--loglevel", "INFO") as worker,
        cluster.stranger() as app,
        app.connection_for_read() as connection,
    ):
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        capture = receiver.itercapture(limit=None, timeout=30, wakeup=False)
        next(capture)  # a heartbeat: what follows is heard
        app.send_task("lash.send", kwargs=good, queue="lash.ingress")
        app.send_task("lash.send", kwargs={**good, "agent": "nobody"}, queue="lash.ingress")
        app.send_task("lash.send", [WORDS], queue="lash.ingress")
        app.send_task("lash.command", kwargs=command, queue="lash.ingress", kwargsrepr=WORDS)
        while sum(event["type"] in ENDED for event in events if event.get("uuid") in _ingress(events)) < 4:
            next(capture)
        received = [event for event in events if event["type"] == "task-received" and event["uuid"] in _ingress(events)]
        assert len(received) == 4
        assert "'session_id': 'secret'" in received[0]["kwargs"]
        assert WORDS not in str(events)
        assert WORDS not in worker.text()


def _ingress(events: list[dict[str, Any]]) -> set[str]:
    """The ids of the ingress tasks; events of their ends name none."""
    return {event["uuid"] for event in events if event.get("name") in ("lash.send", "lash.command")}
