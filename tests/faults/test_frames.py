"""Real workers on Postgres and Redis go through frames, and one of them dies between two."""

from __future__ import annotations

import pytest

from lash_tasks.runtime.crash_points import CrashPoint
from tests.faults.cluster import Cluster
from tests.services import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.mark.shows("F5", "F6")
def test_a_kill_between_two_frames_runs_the_task_once_and_before_what_waits(cluster: Cluster) -> None:
    """The switch is committed, so the turn that follows stands there; the input behind it was sent before."""
    cluster.die_once.touch()
    at = {"LASH_TEST_DIE_AT": CrashPoint.AFTER_COMMIT.value}
    with cluster.worker(environment=at), cluster.worker(environment=at), cluster.client() as client:
        first, second = (client.send("frames", f"m{number}", agent="mover") for number in range(2))
        wait_until(lambda: not cluster.die_once.exists(), 20, "a worker to die")
        runs = [receipt.run(timeout=60) for receipt in (first, second)]

        assert [run.frame_switch_count for run in runs] == [1, 1]
        assert [run.final_turn.text for run in runs] == ["answer: task of m0", "answer: task of m1"]
        assert [turn.turn_index for run in runs for turn in run.turns] == [1, 2, 3, 4]
        assert len(client.frames("frames")) == 3
        assert cluster.tool_counts() == {
            text: 1 for number in range(2) for text in (f"m{number}", f"task of m{number}")
        }
        assert set(cluster.model_calls().values()) == {1}
