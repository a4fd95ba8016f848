"""Flower, unchanged: a running turn is a running task whose arguments name the session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import pytest

from tests.faults.cluster import APPLICATION, ROOT, Cluster
from tests.services import free_port, wait_until

pytestmark = pytest.mark.timeout(120)


def test_flower_shows_a_running_turn_as_a_running_task_that_names_the_session(cluster: Cluster) -> None:
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", APPLICATION, "flower", f"--port={port}", "--address=127.0.0.1"]
    environment = {**cluster.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    log = (cluster.directory / "flower.log").open("wb")
    flower = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        api = f"http://127.0.0.1:{port}/api"

        def running() -> list[dict[str, str]]:
            query = {"state": "STARTED", "search": "args:watched-session"}
            try:
                found = httpx.get(f"{api}/tasks", params=query, timeout=5)
            except httpx.TransportError:
                return []
            return list(found.json().values()) if found.status_code == 200 else []

        cluster.hold.touch()
        with cluster.worker(), cluster.client() as client:
            wait_until(lambda: _answers(f"{api}/workers"), 30, "flower to answer")
            receipt = client.send("watched-session", "see me [hold]", agent="counter")
            (task,) = wait_until(running, 30, "flower to show the running turn")
            assert task["name"] == "lash.run_session"
            assert "watched-session" in task["args"]
            assert "see me" not in str(task)
            cluster.hold.unlink()
            assert receipt.result(timeout=30).ok
    finally:
        os.killpg(flower.pid, signal.SIGKILL)
        flower.wait()
        log.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
