"""Live events leave a worker in a thread that no turn waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.runtime.live_writer import MAX_TOGETHER, MAX_WAITING, LiveWriter
from tests.services import wait_until
from tests.turns.doubles import LiveRecorder


def event(number: int) -> TurnActivity:
    return TurnActivity(SessionId("s"), TurnId("t"), 1, 1, number, ActivityType.USAGE, {})


class SlowRecorder(LiveRecorder):
    """Lets nothing of the writer's thread through before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def append(self, activities: Sequence[TurnActivity]) -> None:
        if threading.current_thread().name == "lash-live":
            assert self.go.wait(10)
        super().append(activities)


@pytest.fixture
def recorder() -> SlowRecorder:
    return SlowRecorder()


@pytest.fixture
def writer(recorder: SlowRecorder) -> Iterator[LiveWriter]:
    writer = LiveWriter(recorder)
    yield writer
    recorder.go.set()
    writer.stop()


def test_a_turn_does_not_wait_and_its_events_keep_their_order(writer: LiveWriter, recorder: SlowRecorder) -> None:
    writer.start()
    for number in range(3 * MAX_TOGETHER):
        writer.append([event(number)])
    assert recorder.events == []
    recorder.go.set()
    wait_until(lambda: len(recorder.events) == 3 * MAX_TOGETHER, 5, "the events")
    assert [one.ordinal for one in recorder.events] == list(range(3 * MAX_TOGETHER))
    assert max(map(len, recorder.flushes)) == MAX_TOGETHER


def test_stopping_sends_what_waits_and_afterwards_events_go_at_once(writer: LiveWriter, recorder: SlowRecorder) -> None:
    writer.start()
    writer.append([event(1)])
    recorder.go.set()
    writer.stop()
    writer.append([event(2)])
    assert [one.ordinal for one in recorder.events] == [1, 2]


def test_what_comes_while_the_writer_stops_overtakes_nothing(writer: LiveWriter, recorder: SlowRecorder) -> None:
    """A turn outlived the drain. Its events stood in line when the writer was stopped; the next went past them, and a
    follower saw the turn commit before it had spoken."""
    writer.start()
    writer.append([event(1)])
    wait_until(lambda: not writer._waiting, 5, "the thread to take it")
    writer.append([event(2)])
    stopping = threading.Thread(target=writer.stop)
    stopping.start()
    wait_until(lambda: writer._stopping, 5, "the writer to stop")
    writer.append([event(3)])
    recorder.go.set()
    stopping.join(5)
    writer.append([event(4)])
    assert [one.ordinal for one in recorder.events] == [1, 2, 3, 4]


def test_a_writer_that_was_stopped_can_be_started_again(writer: LiveWriter, recorder: SlowRecorder) -> None:
    recorder.go.set()
    for number in range(2):
        writer.stop()
        writer.start()
        writer.append([event(number)])
        writer.stop()
    assert [one.ordinal for one in recorder.events] == [0, 1]


def test_what_a_silent_redis_cannot_take_is_lost_and_said_so_once(
    writer: LiveWriter, recorder: SlowRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    writer.start()
    writer.append([event(0)])
    wait_until(lambda: not writer._waiting, 5, "the thread to take it")
    writer.append([event(number) for number in range(MAX_WAITING)])
    for _ in range(3):
        writer.append([event(-1)])
    recorder.go.set()
    writer.stop()
    assert len(recorder.events) == 1 + MAX_WAITING
    assert caplog.text.count("Live events are lost") == 1
