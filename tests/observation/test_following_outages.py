"""Following a stream that loses events, or cannot be reached: gaps are told, and no committed turn is missed."""

from __future__ import annotations

from functools import partial

from lash_tasks.observation.listening import UNWOKEN
from tests.observation.followed import events, take, told
from tests.scene import Scene, Timeline


def test_a_trimmed_stream_is_a_gap_and_loses_no_committed_turn(scene: Scene, clock: Timeline) -> None:
    scene.send()
    opened = scene.open()
    clock.after(0.1, lambda: scene.says(opened, "a"))
    cursor = take(events(scene), 2)[-1].cursor
    for _ in range(3000):
        scene.says(opened, "x")
    clock.after(0.1, lambda: scene.says(opened, "b"))
    clock.after(0.2, lambda: scene.commit(opened, "done"))
    assert told(events(scene, cursor)) == ["snapshot", "gap: trimmed", "says b", "committed done"]


def test_a_stream_that_is_lost_and_begun_anew_is_a_gap(scene: Scene, clock: Timeline) -> None:
    scene.send()
    opened = scene.open()
    clock.after(0.1, lambda: scene.says(opened, "a"))
    cursor = take(events(scene), 2)[-1].cursor
    clock.advance(3600)
    scene.says(opened, "lost")
    clock.after(0.1, lambda: scene.says(opened, "b"))
    followed = list(events(scene, cursor))
    assert told(followed) == ["snapshot", "gap: unavailable", "says b"]
    assert told(events(scene, followed[1].cursor)) == ["snapshot", "says b"]


def test_without_the_stream_the_committed_turns_still_come(scene: Scene, clock: Timeline) -> None:
    scene.live.down = True
    for number in (1, 2):
        scene.send()
        clock.after(number * 2.0, partial(scene.answer, str(number)))
    followed = list(events(scene))
    assert told(followed) == ["snapshot", "gap: unavailable", "committed 1", "committed 2"]
    assert told(events(scene, followed[2].cursor)) == ["snapshot", "committed 2", "gap: unavailable"]


def test_a_stream_that_comes_back_goes_on(scene: Scene, clock: Timeline) -> None:
    scene.live.down = True
    for _ in range(2):
        scene.send()
    clock.after(1.0, lambda: scene.answer("one"))
    clock.after(2.0, lambda: setattr(scene.live, "down", False))
    clock.after(5.5, lambda: scene.answer("two"))
    assert told(events(scene)) == [
        "snapshot",
        "gap: unavailable",
        "committed one",
        "turn_started",
        "says two",
        "committed two",
    ]


def test_an_outage_in_the_middle_is_one_gap(scene: Scene, clock: Timeline) -> None:
    scene.send()
    opened = scene.open()
    clock.after(0.1, lambda: scene.says(opened, "a"))
    clock.after(0.5, lambda: setattr(scene.live, "down", True))
    clock.after(1.0, lambda: scene.says(opened, "lost"))
    clock.after(4.5, lambda: setattr(scene.live, "down", False))
    clock.after(8.0, lambda: scene.says(opened, "b"))
    clock.after(8.5, lambda: setattr(scene.live, "down", True))
    clock.after(11.0, lambda: scene.commit(opened, "done"))
    assert told(events(scene, idle_timeout=10)) == [
        "snapshot",
        "says a",
        "gap: unavailable",
        "says b",
        "gap: unavailable",
        "committed done",
    ]


def test_in_another_process_than_the_stream_the_committed_turns_come_quickly(scene: Scene, clock: Timeline) -> None:
    scene.pace = UNWOKEN
    scene.send()
    opened = scene.open()
    began = clock.now_ms()
    clock.after(3.0, lambda: scene.commit(opened))
    assert told(take(events(scene), 2)) == ["snapshot", "committed answer"]
    assert clock.now_ms() - began <= 3400
