"""The doorbell inside one process: every session that is rung for is run, and none is queued twice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.runtime.local import LocalDoorbell
from tests.services import wait_until

ONE, TWO = SessionId("one"), SessionId("two")


@pytest.fixture
def bell() -> Iterator[LocalDoorbell]:
    bell = LocalDoorbell()
    yield bell
    bell.close()


def test_a_session_that_waits_already_is_not_queued_twice(bell: LocalDoorbell) -> None:
    ran: list[SessionId] = []
    for session_id in (ONE, TWO, ONE):
        bell.ring_session(session_id)
    bell.ring_turn(TWO, TurnId("t"))
    bell.answer(ran.append, 1)
    wait_until(lambda: len(ran) == 2, 20, "both sessions")
    bell.close()
    assert ran == [ONE, TWO]


def test_a_ring_during_a_run_is_answered_after_it(bell: LocalDoorbell) -> None:
    ran: list[SessionId] = []

    def run(session_id: SessionId) -> None:
        ran.append(session_id)
        if len(ran) == 1:
            bell.ring_session(session_id)

    bell.answer(run, 1)
    bell.ring_session(ONE)
    wait_until(lambda: len(ran) == 2, 20, "the second run")


def test_sessions_run_side_by_side(bell: LocalDoorbell) -> None:
    together = threading.Barrier(3)
    bell.answer(lambda _: together.wait(20), 2)
    bell.ring_session(ONE)
    bell.ring_session(TWO)
    together.wait(20)


def test_a_run_that_raises_is_logged_by_the_session_alone_and_the_thread_goes_on(
    bell: LocalDoorbell, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[SessionId] = []

    def run(session_id: SessionId) -> None:
        ran.append(session_id)
        if session_id == ONE:
            raise LookupError("inside")

    bell.answer(run, 1)
    bell.ring_session(ONE)
    bell.ring_session(TWO)
    wait_until(lambda: ran == [ONE, TWO], 20, "both sessions")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "a turn could not be run"
    assert vars(record)["session_id"] == ONE


def test_closing_waits_for_what_runs_and_forgets_what_waits(bell: LocalDoorbell) -> None:
    ran: list[SessionId] = []
    begun, leave = threading.Event(), threading.Event()

    def run(session_id: SessionId) -> None:
        begun.set()
        leave.wait(20)
        ran.append(session_id)

    bell.answer(run, 1)
    bell.ring_session(ONE)
    assert begun.wait(20)
    bell.ring_session(TWO)
    closing = threading.Thread(target=bell.close)
    closing.start()
    leave.set()
    closing.join(20)
    assert ran == [ONE]
    bell.ring_session(ONE)
    bell.close()
    assert ran == [ONE]
