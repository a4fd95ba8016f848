"""A receipt and a follower go with an input through the frames that its turns switch to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.domain.frames import MAX_FRAME_SWITCHES, FrameSwitch
from lash_tasks.domain.ids import BatchId
from lash_tasks.domain.turns import AgentFrameRun
from lash_tasks.errors import EmptyAgentFrameRun, InputDeadLettered, ResultTimeout
from lash_tasks.observation.following import FollowEvent, follow
from lash_tasks.observation.receipts import read_status, wait_for_run
from tests.scene import SESSION, Scene, Timeline


def switch(scene: Scene, number: int = 1) -> None:
    scene.commit(scene.open(), "", switch=FrameSwitch(f"frame-{number}", f"task {number}"))


def run(scene: Scene, input_id: BatchId, timeout: float | None = 60) -> AgentFrameRun:
    return wait_for_run(scene.sources, SESSION, input_id, timeout)


@pytest.mark.shows("F4")
def test_the_run_of_an_input_has_a_turn_for_each_frame(scene: Scene, clock: Timeline) -> None:
    input_id = scene.send()
    scene.send("another")
    clock.after(0.1, lambda: switch(scene, 1))
    clock.after(0.2, lambda: switch(scene, 2))
    clock.after(0.3, lambda: scene.answer("done"))
    found = run(scene, input_id)

    root = found.turns[0].turn_id
    assert [turn.turn_id for turn in found.turns] == [root, f"{root}:agent-frame:1", f"{root}:agent-frame:2"]
    assert (found.frame_switch_count, found.final_turn.text) == (2, "done")


def test_most_runs_are_of_one_turn(scene: Scene) -> None:
    input_id = scene.send()
    scene.answer("done")
    found = run(scene, input_id)
    assert (len(found.turns), found.frame_switch_count, found.final_turn.text) == (1, 0, "done")


@pytest.mark.raises_code("empty_agent_frame_run")
def test_a_run_without_turns_has_no_final_one() -> None:
    with pytest.raises(EmptyAgentFrameRun) as raised:
        _ = AgentFrameRun(()).final_turn
    assert raised.value.code == "empty_agent_frame_run"


def test_an_input_runs_until_the_last_of_its_turns_is_committed(scene: Scene) -> None:
    input_id = scene.send()
    switch(scene)
    status = read_status(scene.sources, SESSION, input_id)
    assert str(status) == "running"
    assert str(status.turn_id).endswith(":agent-frame:1")
    with pytest.raises(ResultTimeout):
        run(scene, input_id, timeout=2)

    scene.answer()
    assert str(read_status(scene.sources, SESSION, input_id)) == f"committed({status.turn_id})"


def test_an_input_has_the_end_of_its_last_turn(scene: Scene) -> None:
    input_id = scene.send()
    switch(scene)
    scene.commit(scene.open(), dead_reason="attempts_exhausted")

    assert str(read_status(scene.sources, SESSION, input_id)) == "dead(attempts_exhausted)"
    with pytest.raises(InputDeadLettered, match="lash-tasks queue replay task-"):
        run(scene, input_id)


def test_a_status_is_read_through_as_many_frames_as_a_run_may_have(scene: Scene) -> None:
    input_id = scene.send()
    for number in range(MAX_FRAME_SWITCHES):
        switch(scene, number)
    scene.answer("done")

    assert str(read_status(scene.sources, SESSION, input_id)).endswith(":agent-frame:32)")
    assert run(scene, input_id).frame_switch_count == MAX_FRAME_SWITCHES


def test_a_follower_is_told_of_the_switch_behind_the_turn(scene: Scene, clock: Timeline) -> None:
    scene.send()
    clock.after(0.1, lambda: switch(scene))
    clock.after(0.2, lambda: scene.answer("done"))
    events: Iterator[FollowEvent] = follow(scene.sources, SESSION, idle_timeout=3)
    seen = [event for event in events if event.type in ("committed", "agent_frame_switched")]

    assert [event.type for event in seen] == ["committed", "agent_frame_switched", "committed"]
    root, switched, final = seen
    assert switched.data == {"frame_id": "frame-1", "task": "task 1", "follow_up": final.turn_id}
    assert switched.turn_id == root.turn_id
