"""Two versions of one application on one database, as a deployment has them for a while."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import text as sql

from tests.faults.cluster import ROOT, Cluster
from tests.services import wait_until

pytestmark = pytest.mark.timeout(180)

VERSION_2 = {"LASH_TEST_VERSION": "2"}


def lash_tasks(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from lash_tasks.cli.main import main; main()", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=60, check=False
    )


def doctor(cluster: Cluster) -> dict[str, Any]:
    found = json.loads(lash_tasks(cluster, "doctor", "--json").stdout)["findings"]
    return next(one for one in found if one["check"] == "held turns")


def test_a_turn_whose_tool_a_deployment_removed_waits_for_a_worker_that_has_it(cluster: Cluster) -> None:
    message = "begun by version 1 [hold]"
    cluster.hold.touch()
    with cluster.client() as client:
        with cluster.worker() as first:
            receipt = client.send("pinned", message, agent="counter")
            wait_until(lambda: cluster.tool_counts()[message] == 1, 20, "the tool of version 1 to begin")
            first.kill()
        cluster.hold.unlink()

        with cluster.worker(environment=VERSION_2) as second:
            behind = client.send("pinned", "behind it", agent="counter")
            served = client.send("new", "for version 2", agent="counter").result(timeout=30)
            assert [call.tool for call in served.tool_calls] == ["search"]
            wait_until(lambda: "are left to workers that have its code" in second.text(), 30, "version 2 to meet it")
            with client.stores.database.reading() as connection:
                turn = connection.execute(sql("SELECT * FROM lash_turns WHERE status = 'running'")).mappings().one()
            assert (turn["attempt"], turn["fence"]) == (1, 1), "not opened, not counted"
            held = doctor(cluster)
            assert held["health"] == "warning"
            assert "of session pinned: no worker's agent 'counter' has the tool 'lookup'" in held["message"]
            assert "start a worker of the version that began them, or cancel" in held["advice"]
            assert "held: no worker" in lash_tasks(cluster, "turns", "list", "--session", "pinned").stdout
            assert str(receipt.status()) == "running"

            with cluster.worker():
                finished = receipt.result(timeout=60)
                assert [call.tool for call in finished.tool_calls] == ["lookup"]
                assert behind.result(timeout=30).ok
                assert doctor(cluster)["health"] == "ok"
    assert cluster.tool_counts()[message] == 2, "the attempt that died, and the one that was recorded"
    assert cluster.model_calls()[(message, 1)] == 1
    keys = {run["key"] for run in cluster.tool_runs() if run["text"] == message}
    assert len(keys) == 1


def test_a_turn_that_no_version_left_can_run_is_cancelled_by_hand(cluster: Cluster) -> None:
    message = "to be cancelled [hold]"
    cluster.hold.touch()
    with cluster.client() as client:
        with cluster.worker() as first:
            receipt = client.send("pinned", message, agent="counter")
            wait_until(lambda: cluster.tool_counts()[message] == 1, 20, "the tool of version 1 to begin")
            first.kill()
        with cluster.worker(environment=VERSION_2):
            wait_until(lambda: doctor(cluster)["health"] == "warning", 30, "the turn to be held")
            turn_id = receipt.status().turn_id
            assert lash_tasks(cluster, "turns", "cancel", "pinned", str(turn_id)).returncode == 0
            turn = receipt.result(timeout=30)
            assert not turn.ok
            assert client.send("pinned", "and now", agent="counter").result(timeout=30).ok
