"""Live events of one turn: in order, numbered, neighbouring text as one event, few round trips."""

from __future__ import annotations

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.runtime.live import FLUSH_EVENTS, FLUSH_SECONDS, LivePublisher
from lash_tasks.runtime.live_writer import LiveWriter
from tests.turns.doubles import LiveRecorder

SESSION, TURN = SessionId("customer-7"), TurnId("t")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def recorder() -> LiveRecorder:
    return LiveRecorder()


@pytest.fixture
def live(recorder: LiveRecorder, clock: FakeClock) -> LivePublisher:
    return LivePublisher(LiveWriter(recorder), clock, SESSION, TURN, fence=7, attempt=2)


def test_neighbouring_pieces_of_one_kind_become_one_event(live: LivePublisher, recorder: LiveRecorder) -> None:
    for piece in ("Hel", "lo"):
        live.text(piece)
    for piece in ("so", " be", " it"):
        live.reasoning(piece)
    live.text("!")
    live.flush()
    assert [(event.type, event.data) for event in recorder.events] == [
        (ActivityType.ASSISTANT_PROSE_DELTA, {"text": "Hello"}),
        (ActivityType.REASONING_DELTA, {"text": "so be it"}),
        (ActivityType.ASSISTANT_PROSE_DELTA, {"text": "!"}),
    ]


def test_events_are_numbered_through_and_name_their_turn_fence_and_attempt(
    live: LivePublisher, recorder: LiveRecorder
) -> None:
    for _ in range(3):
        live.emit(ActivityType.TURN_STARTED)
        live.flush()
    assert [event.ordinal for event in recorder.events] == [1, 2, 3]
    assert {(event.session_id, event.turn_id, event.fence, event.attempt) for event in recorder.events} == {
        (SESSION, TURN, 7, 2)
    }


def test_nothing_is_sent_before_its_time_and_everything_then(
    live: LivePublisher, recorder: LiveRecorder, clock: FakeClock
) -> None:
    live.text("one ")
    clock.advance(FLUSH_SECONDS / 2)
    live.text("two ")
    assert recorder.flushes == []
    clock.advance(FLUSH_SECONDS)
    live.text("three")
    assert [event.data for event in recorder.events] == [{"text": "one two three"}]
    live.flush()
    assert len(recorder.flushes) == 1, "an empty flush is no round trip"


def test_many_events_are_sent_without_waiting_for_the_time(live: LivePublisher, recorder: LiveRecorder) -> None:
    for number in range(FLUSH_EVENTS):
        assert recorder.flushes == []
        live.emit(ActivityType.USAGE, number=number)
    assert len(recorder.events) == FLUSH_EVENTS


def test_text_after_a_reset_is_an_event_of_its_own(live: LivePublisher, recorder: LiveRecorder) -> None:
    live.text("Hel")
    live.retrying(attempt=1, max_attempts=4, wait_seconds=2.0, reason="stream ended early")
    live.reset()
    live.text("Hello")
    live.flush()
    assert [event.type for event in recorder.events] == [
        ActivityType.ASSISTANT_PROSE_DELTA,
        ActivityType.RETRY_STATUS,
        ActivityType.STREAM_RESET,
        ActivityType.ASSISTANT_PROSE_DELTA,
    ]
    assert recorder.events[1].data == {
        "attempt": 1,
        "max_attempts": 4,
        "wait_seconds": 2.0,
        "reason": "stream ended early",
    }
    assert len(recorder.flushes) == 2, "a retry is shown at once, for its wait is long"


def test_lone_surrogates_are_replaced(live: LivePublisher, recorder: LiveRecorder) -> None:
    live.text("a\ud800b")
    live.emit(ActivityType.TOOL_CALL_STARTED, arguments={"\udc00": ["\ud800"]})
    live.flush()
    assert [event.data for event in recorder.events] == [
        {"text": "a\ufffdb"},
        {"arguments": {"\ufffd": ["\ufffd"]}},
    ]
