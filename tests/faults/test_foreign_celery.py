"""A process that has Celery and none of our packages sends input to `lash.ingress`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql

from tests.faults.cluster import Cluster
from tests.services import wait_until

pytestmark = pytest.mark.timeout(120)

FOREIGN = """
import json, sys
from celery import Celery
app = Celery("foreign", broker=sys.argv[1], backend=sys.argv[2])
results = []
for task, kwargs in json.load(sys.stdin):
    sent = app.send_task(task, kwargs=kwargs, queue="lash.ingress")
    try:
        results.append({"receipt": sent.get(timeout=30)})
    except Exception as error:
        results.append({"error": str(error)})
assert not [name for name in sys.modules if name.startswith("lash")]
print(json.dumps(results))
"""


def send_foreign(cluster: Cluster, directory: Path, *messages: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What a stranger to our packages gets back for its messages, one after the other."""
    servers = [str(cluster.settings.effective_broker_url()), str(cluster.settings.redis_url)]
    arguments = [sys.executable, "-c", FOREIGN, *servers]
    finished = subprocess.run(
        arguments, cwd=directory, input=json.dumps(messages), capture_output=True, text=True, timeout=90, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    results: list[dict[str, Any]] = json.loads(finished.stdout)
    return results


def test_a_foreign_celery_client_sends_and_the_turn_commits(cluster: Cluster, tmp_path: Path) -> None:
    message = {"session_id": "foreign", "text": "hello", "agent": "counter", "idempotency_key": "f-1"}
    backend = {"LASH_TEST_RESULT_BACKEND": str(cluster.settings.redis_url)}
    with cluster.worker(environment=backend), cluster.client() as client:
        first, second = send_foreign(cluster, tmp_path, ("lash.send", message), ("lash.send", message))
        assert first["receipt"]["created"] is True
        assert second["receipt"] == {**first["receipt"], "created": False}
        turn = client.receipt("foreign", idempotency_key="f-1").result(timeout=30)
        assert turn.text == "answer: hello"
        (late,) = send_foreign(cluster, tmp_path, ("lash.cancel", {"session_id": "foreign", "idempotency_key": "f-1"}))
        assert late["receipt"]["verdict"] == "ended"


def test_a_foreign_celery_client_commands_a_session(cluster: Cluster, tmp_path: Path) -> None:
    message = {"session_id": "foreign", "kind": "configure_session", "idempotency_key": "c-1", "agent": "counter"}
    command = {**message, "arguments": {"spec": {"max_turns": 3}}}
    backend = {"LASH_TEST_RESULT_BACKEND": str(cluster.settings.redis_url)}
    with cluster.worker(environment=backend), cluster.client() as client:
        first, second, blank, bad = send_foreign(
            cluster,
            tmp_path,
            ("lash.command", command),
            ("lash.command", command),
            ("lash.command", {**command, "idempotency_key": " "}),
            ("lash.command", {**message, "arguments": {"spec": {"provider": {}}}}),
        )
        assert second["receipt"] == {**first["receipt"], "created": False}
        assert "(session_command_idempotency_key)" in blank["error"]
        assert bad["error"].startswith("arguments.spec.provider: ")
        turn = client.receipt("foreign", idempotency_key="command:configure_session:c-1").result(timeout=30)
        assert turn.output is not None
        assert turn.output["current"]["max_turns"] == 3
        assert client.session("foreign").spec == {"max_turns": 3}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("text", {"session_id": "bad", "text": "  ", "agent": "counter"}),
    ("agent", {"session_id": "bad", "text": "hi", "agent": "nobody"}),
    ("session_id", {"session_id": "b" * 201, "text": "hi", "agent": "counter"}),
    ("session_id", {"session_id": "b\nd", "text": "hi", "agent": "counter"}),
    ("colour", {"session_id": "bad", "text": "hi", "agent": "counter", "colour": "red"}),
    ("text", {"session_id": "bad", "text": 7, "agent": "counter"}),
    (
        "input.items[0].id",
        {"session_id": "bad", "agent": "counter", "input": {"items": [{"type": "image_ref", "id": "i"}]}},
    ),
    ("text", {"session_id": "bad", "text": "x" * (1024 * 1024 + 1), "agent": "counter"}),
]


def test_a_bad_message_is_refused_by_the_field_and_stores_nothing(cluster: Cluster, tmp_path: Path) -> None:
    backend = {"LASH_TEST_RESULT_BACKEND": str(cluster.settings.redis_url)}
    with cluster.worker("--loglevel", "INFO", environment=backend) as worker, cluster.client() as client:
        bad = [("lash.send", message) for _, message in BAD]
        for (field, _), result in zip(BAD, send_foreign(cluster, tmp_path, *bad), strict=True):
            assert result["error"].startswith(f"{field}: "), result
        with client.stores.database.reading() as connection:
            for table in ("lash_batches", "lash_sessions", "lash_turns", "lash_fences", "lash_blobs"):
                assert connection.execute(sql(f"SELECT count(*) FROM {table}")).scalar() == 0, table
        assert worker.text().count("raised expected: Refused") == len(BAD)
        assert "Traceback" not in worker.text()


def test_a_message_whose_arguments_have_no_names_is_refused_and_told_to_name_them(cluster: Cluster) -> None:
    """It failed with a TypeError about the parameters of a function that its sender has never seen."""
    with cluster.worker("--loglevel", "INFO") as worker, cluster.stranger() as app:
        for task in ("lash.send", "lash.cancel", "lash.command"):
            app.send_task(task, ["s", "hello", "counter"], queue="lash.ingress")
        sentence = "args: must be empty; give the arguments by name, as kwargs (invalid_input)"
        wait_until(lambda: worker.text().count(sentence) == 3, 30, "the messages to be refused")
        assert "TypeError" not in worker.text()
