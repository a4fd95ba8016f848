"""Following: live events as they come, each committed turn once and in order, and no text twice."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.codec import from_json
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.turns import AssembledTurn
from lash_tasks.errors import InvalidInput, SessionDeleted
from lash_tasks.observation.following import follow
from lash_tasks.runtime.ingress import CancelRequest
from lash_tasks.stores.protocols import OpenedTurn
from tests.observation.followed import events, take, told
from tests.scene import SESSION, Scene, Timeline

# ---------------------------------------------------------------- the plain course


def test_a_session_without_a_turn_may_be_followed(scene: Scene) -> None:
    [snapshot] = events(scene)
    assert snapshot.type == "snapshot"
    assert snapshot.data == {"head_revision": 0, "turn_index": 0, "running": None}


def test_a_turn_is_told_from_start_to_commit(scene: Scene, clock: Timeline) -> None:
    scene.send()
    clock.after(0.5, lambda: scene.answer("hi"))
    followed = list(events(scene))
    assert told(followed) == ["snapshot", "turn_started", "says hi", "committed hi"]
    turn: AssembledTurn = from_json(AssembledTurn, followed[-1].data)
    assert turn == scene.sessions.turns(SESSION)[0].result
    assert {event.turn_id for event in followed[1:]} == {turn.turn_id}


def test_the_snapshot_says_where_the_session_stands(scene: Scene) -> None:
    for _ in range(2):
        scene.send()
    scene.answer("one")
    opened = scene.start()
    [snapshot] = events(scene)
    assert snapshot.turn_id == opened.intent.turn_id
    assert snapshot.data == {
        "head_revision": 1,
        "turn_index": 1,
        "running": {"turn_id": opened.intent.turn_id, "turn_index": 2, "agent": "support", "attempt": 1},
    }


def test_turns_that_are_over_are_not_told_again(scene: Scene, clock: Timeline) -> None:
    for _ in range(2):
        scene.send()
    scene.answer("one")
    clock.after(0.1, lambda: scene.answer("two"))
    assert told(events(scene)) == ["snapshot", "turn_started", "says two", "committed two"]


def test_each_committed_turn_comes_once_and_in_order(scene: Scene, clock: Timeline) -> None:
    for number in range(1, 31):
        scene.send()
        clock.after(number * 0.37, partial(scene.answer, str(number)))
    committed = [event for event in events(scene) if event.type is ActivityType.COMMITTED]
    assert told(committed) == [f"committed {number}" for number in range(1, 31)]


def test_a_follower_hears_what_is_enqueued_and_cancelled(scene: Scene, clock: Timeline) -> None:
    sent: list[str] = []
    clock.after(0.1, lambda: sent.append(scene.send()))

    def cancel() -> None:
        scene.ingress.cancel(CancelRequest.parse({"session_id": SESSION, "input_id": sent[0]}))

    clock.after(0.2, cancel)
    clock.after(0.3, cancel)
    clock.after(0.4, lambda: sent.append(scene.send()))
    heard = [event for event in take(events(scene), 4) if event.type is ActivityType.QUEUE_CHANGED]
    assert [event.data for event in heard] == [
        {"kind": "enqueued", "batch_ids": sent[:1]},
        {"kind": "cancelled", "batch_ids": sent[:1]},
        {"kind": "enqueued", "batch_ids": sent[1:]},
    ]


def test_many_turns_that_nobody_announced_are_all_told(scene: Scene, clock: Timeline) -> None:
    def commit_silently() -> None:
        for number in range(1, 51):
            scene.send()
            scene.commit(scene.open(), str(number))

    clock.after(0.1, commit_silently)
    began = clock.now_ms()
    seen = (event for event in events(scene) if event.type is not ActivityType.QUEUE_CHANGED)
    assert told(take(seen, 51)) == ["snapshot", *(f"committed {number}" for number in range(1, 51))]
    assert clock.now_ms() - began <= 1000


def test_a_worker_that_dies_between_commit_and_announcement_delays_the_news_by_a_second(
    scene: Scene, clock: Timeline
) -> None:
    scene.send()
    opened = scene.open()
    began = clock.now_ms()
    clock.after(0.1, lambda: scene.commit(opened))
    assert told(take(events(scene), 2)) == ["snapshot", "committed answer"]
    assert clock.now_ms() - began <= 1000


def test_a_busy_stream_does_not_put_off_the_news(scene: Scene, clock: Timeline) -> None:
    """Another turn streams while the commit of the one before it was never announced."""
    for _ in range(2):
        scene.send()
    first = scene.start()
    began = clock.now_ms()
    clock.after(0.1, lambda: scene.commit(first, "one"))
    second: list[OpenedTurn] = []
    clock.after(0.2, lambda: second.append(scene.open()))

    def speak(number: int) -> None:
        scene.says(second[0], str(number))

    for number in range(1, 100):
        clock.after(0.3 + number * 0.05, partial(speak, number))
    followed = events(scene)
    assert told(take(followed, 3)) == ["snapshot", "committed one", "says 1"]
    assert clock.now_ms() - began <= 1000


def test_what_the_stream_still_has_of_a_turn_that_is_over_is_dropped(scene: Scene, clock: Timeline) -> None:
    """The commit is seen in SQL first, the text of the same turn arrives late."""
    scene.send()
    opened = scene.open()
    clock.after(0.1, lambda: scene.commit(opened, "hi"))
    clock.after(2.0, lambda: scene.says(opened, "hi"))
    clock.after(2.0, lambda: scene.announce(opened))
    assert told(events(scene)) == ["snapshot", "committed hi"]


def test_a_commit_between_the_tail_and_the_look_is_told_by_the_snapshot_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.send()
    head, opened = scene.sessions.head, scene.start()

    def head_after_commit(session_id: SessionId) -> object:
        if scene.queue.waiting():
            scene.says(opened, "hi")
            scene.commit(opened, "hi")
            scene.announce(opened)
        return head(session_id)

    monkeypatch.setattr(scene.sessions, "head", head_after_commit)
    [snapshot] = events(scene)
    assert snapshot.data["turn_index"] == 1


# ---------------------------------------------------------------- take-overs


def test_a_higher_attempt_resets_what_was_seen(scene: Scene, clock: Timeline) -> None:
    scene.send()

    def crash_and_resume() -> None:
        first = scene.start()
        scene.says(first, "Your or")
        scene.die(first)
        second = scene.start()
        scene.says(second, "Your order")
        scene.says(first, "der (from the grave)")
        scene.commit(second, "Your order")
        scene.announce(second)

    clock.after(0.1, crash_and_resume)
    followed = list(events(scene))
    assert told(followed) == [
        "snapshot",
        "turn_started",
        "says Your or",
        "reset to attempt 2",
        "turn_started",
        "says Your order",
        "committed Your order",
    ]
    reset = followed[3]
    assert reset.data["turn_id"] == reset.turn_id == followed[-1].turn_id


def test_a_turn_that_was_given_up_without_a_crash_resets_too(scene: Scene, clock: Timeline) -> None:
    scene.send()

    def drain_and_resume() -> None:
        first = scene.start()
        scene.says(first, "a")
        scene.turns.give_up(SESSION, first.intent.turn_id, first.fence, crashed=False)
        scene.says(scene.start(), "ab")

    clock.after(0.1, drain_and_resume)
    assert told(events(scene)) == [
        "snapshot",
        "turn_started",
        "says a",
        "reset to attempt 1",
        "turn_started",
        "says ab",
    ]


def test_a_take_over_whose_beginning_was_lost_resets_too(scene: Scene, clock: Timeline) -> None:
    scene.send()

    def crash_and_resume() -> None:
        first = scene.start()
        scene.says(first, "a")
        scene.die(first)
        scene.says(scene.open(), "ab")

    clock.after(0.1, crash_and_resume)
    assert told(events(scene)) == ["snapshot", "turn_started", "says a", "reset to attempt 2", "says ab"]


def test_a_follower_that_came_back_before_the_take_over_is_reset_too(scene: Scene, clock: Timeline) -> None:
    """It knows the turn from the events after its cursor, and the beginning of the take-over was lost."""
    scene.send()
    first = scene.open()
    clock.after(0.1, lambda: scene.says(first, "a"))
    cursor = take(events(scene), 2)[-1].cursor
    scene.says(first, "b")
    scene.die(first)
    second = scene.open()
    scene.says(second, "ab")
    assert told(events(scene, cursor)) == ["snapshot", "says b", "reset to attempt 2", "says ab"]


def test_a_follower_that_was_away_during_the_take_over_is_reset_too(scene: Scene, clock: Timeline) -> None:
    scene.send()
    first = scene.open()
    clock.after(0.1, lambda: scene.says(first, "a"))
    cursor = take(events(scene), 2)[-1].cursor
    scene.die(first)
    scene.says(scene.start(), "ab")
    scene.says(first, "from the grave")
    assert told(events(scene, cursor)) == ["snapshot", "reset to attempt 2", "turn_started", "says ab"]


def test_a_follower_that_comes_back_after_the_take_over_ignores_the_grave(scene: Scene, clock: Timeline) -> None:
    scene.send()
    first = scene.open()
    scene.die(first)
    second = scene.start()
    clock.after(0.1, lambda: scene.says(second, "b"))
    cursor = take(events(scene), 2)[-1].cursor
    scene.says(first, "from the grave")
    scene.says(second, "c")
    assert told(events(scene, cursor)) == ["snapshot", "says c"]


# ---------------------------------------------------------------- cursors


def test_every_event_can_be_resumed_behind(scene: Scene, clock: Timeline) -> None:
    """Whichever event was the last that a follower got, its cursor brings what came after it, and no more."""
    for _ in range(2):
        scene.send()

    def work() -> None:
        first = scene.start()
        scene.says(first, "a")
        scene.die(first)
        second = scene.start()
        scene.says(second, "b")
        scene.commit(second, "b")
        scene.announce(second)
        scene.answer("c")

    clock.after(0.1, work)
    whole = list(events(scene))
    assert len(whole) == 10
    for position, event in enumerate(whole):
        assert told(events(scene, event.cursor)) == ["snapshot", *told(whole[position + 1 :])]


def test_the_cursor_of_the_snapshot_misses_nothing(scene: Scene) -> None:
    scene.send()
    opened = scene.open()
    [snapshot] = events(scene, idle_timeout=0)
    scene.says(opened, "a")
    assert told(events(scene, snapshot.cursor)) == ["snapshot", "says a"]


def test_the_cursor_of_a_reset_brings_no_second_reset(scene: Scene, clock: Timeline) -> None:
    scene.send()
    first = scene.open()
    clock.after(0.1, lambda: scene.says(first, "a"))
    seen = take(events(scene), 2)
    scene.die(first)
    scene.says(scene.start(), "ab")
    reset = take(events(scene, seen[-1].cursor), 2)[-1]
    assert told([reset]) == ["reset to attempt 2"]
    assert told(events(scene, reset.cursor)) == ["snapshot", "turn_started", "says ab"]


def test_a_follower_that_was_away_gets_the_live_events_it_missed_of_the_running_turn(
    scene: Scene, clock: Timeline
) -> None:
    scene.send()
    opened = scene.open()
    clock.after(0.1, lambda: scene.says(opened, "a"))
    cursor = take(events(scene), 2)[-1].cursor
    scene.says(opened, "b")
    clock.after(0.1, lambda: scene.says(opened, "c"))
    assert told(events(scene, cursor)) == ["snapshot", "says b", "says c"]


def test_a_follower_that_was_away_gets_the_turns_it_missed(scene: Scene) -> None:
    for _ in range(3):
        scene.send()
    scene.answer("one")
    [snapshot] = events(scene)
    scene.answer("two")
    scene.answer("three")
    two, three = (["turn_started", f"says {text}", f"committed {text}"] for text in ("two", "three"))
    assert told(events(scene, snapshot.cursor)) == ["snapshot", *two, *three]


def test_a_cursor_behind_a_commit_that_overtook_the_stream_brings_nothing_twice(scene: Scene, clock: Timeline) -> None:
    scene.send()
    opened = scene.open()
    clock.after(0.1, lambda: scene.commit(opened, "hi"))
    *_, committed = list(events(scene))
    scene.says(opened, "hi")
    scene.announce(opened)
    assert told(events(scene, committed.cursor)) == ["snapshot"]


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "lashfc1:1:2",
        "lashfc1:x:2:-:customer-7",
        "lashfc1:99999999999999999999:1:-:customer-7",
        "lashfc1:1:2:nonsense",
        "lashfc1:1:2:-:customer-8",
        "lashfc1:1:2:lashsc1:abc:0-1:customer-8",
    ],
)
def test_a_cursor_that_is_malformed_or_another_sessions_is_refused_at_once(scene: Scene, cursor: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        events(scene, cursor)
    assert refusal.value.field == "cursor"


def test_a_cursor_of_another_session_is_refused(scene: Scene) -> None:
    other = next(follow(scene.sources, SessionId("customer:8"), idle_timeout=0))
    assert list(follow(scene.sources, SessionId("customer:8"), other.cursor, idle_timeout=0))
    with pytest.raises(InvalidInput, match="cursor: belongs to"):
        events(scene, other.cursor)


# ---------------------------------------------------------------- the end


def test_a_follower_ends_when_it_is_stopped(scene: Scene, clock: Timeline) -> None:
    stop = threading.Event()
    clock.after(7.5, stop.set)
    began = clock.now_ms()
    assert told(events(scene, stop=stop, idle_timeout=None)) == ["snapshot"]
    assert 7500 <= clock.now_ms() - began <= 8500


def test_a_follower_ends_when_nothing_comes(scene: Scene, clock: Timeline) -> None:
    scene.send()
    clock.after(0.5, scene.answer)
    began = clock.now_ms()
    list(events(scene, idle_timeout=0.7))
    assert clock.now_ms() - began == pytest.approx(1200, abs=5)


def test_following_a_deleted_session_ends_with_an_error(scene: Scene, clock: Timeline) -> None:
    scene.send()
    scene.answer()
    clock.after(2.0, lambda: scene.sessions.delete(SESSION))
    followed = events(scene)
    next(followed)
    with pytest.raises(SessionDeleted):
        next(followed)
    with pytest.raises(SessionDeleted):
        next(events(scene))
