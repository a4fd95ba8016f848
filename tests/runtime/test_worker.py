"""What a worker process knows of itself: one engagement a session, and whether it is leaving."""

from __future__ import annotations

import threading

import pytest

from lash_tasks.clock import SystemClock
from lash_tasks.domain.ids import LeaseToken, SessionId, WorkerId
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime.worker import Doing, Worker

ONE, TWO = SessionId("one"), SessionId("two")
TOKEN = LeaseToken("t")


@pytest.fixture
def worker() -> Worker:
    return Worker(WorkerId("w"), SystemClock())


def test_a_session_is_engaged_by_one_thread_at_a_time(worker: Worker) -> None:
    with worker.engage(ONE, TOKEN) as first, worker.engage(ONE, TOKEN) as second, worker.engage(TWO, TOKEN) as other:
        assert first is not None
        assert second is None
        assert other is not None
        assert worker.engagements() == [first, other]
    assert worker.engagements() == []
    with worker.engage(ONE, TOKEN) as again:
        assert again is not None


def test_an_engagement_ends_with_whatever_is_raised_in_it(worker: Worker) -> None:
    with pytest.raises(KeyboardInterrupt), worker.engage(ONE, TOKEN):
        raise KeyboardInterrupt
    assert worker.engagements() == []


def test_who_was_dismissed_does_not_end_the_engagement_of_its_successor(worker: Worker) -> None:
    with worker.engage(ONE, TOKEN) as stuck:
        assert stuck is not None
        worker.dismiss(stuck)
        with worker.engage(ONE, LeaseToken("another")) as successor:
            worker.dismiss(stuck)
            assert worker.engagements() == [successor]


def test_a_stuck_turn_that_ended_after_all_takes_no_later_turn_with_it(worker: Worker) -> None:
    """The beat found a turn past its deadline that ended in the same moment. It dismissed the turn that had followed
    under the same lease: nobody renewed or beat for that any more, and it was given up in the middle of its work."""
    with worker.engage(ONE, TOKEN) as stuck:
        assert stuck is not None
        following = worker.next_turn(stuck)
        assert following is not None
        assert not worker.dismiss_turn(stuck)
        assert worker.engagements() == [following]
        assert worker.dismiss_turn(following)
        assert worker.next_turn(following) is None


def test_a_drain_interrupts_those_that_do_what_it_names_or_all(worker: Worker) -> None:
    with worker.engage(ONE, TOKEN) as one, worker.engage(TWO, TOKEN) as two:
        assert one is not None
        assert two is not None
        one.doing, two.doing = Doing.MODEL_CALL, Doing.TOOLS
        assert worker.interrupt_all(Doing.MODEL_CALL) == 1
        assert (one.interrupt.reason, two.interrupt.reason) == (InterruptReason.DRAINING, None)
        assert worker.interrupt_all() == 2
        assert two.interrupt.reason is InterruptReason.DRAINING


def test_waiting_until_idle_ends_with_the_last_engagement(worker: Worker) -> None:
    assert worker.wait_until_idle(0)
    engaged, leave = threading.Event(), threading.Event()

    def work() -> None:
        with worker.engage(ONE, TOKEN):
            engaged.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    assert engaged.wait(20)
    assert not worker.wait_until_idle(0)
    leave.set()
    assert worker.wait_until_idle(20)
    thread.join(20)


def test_a_draining_worker_hands_each_session_on_once(worker: Worker) -> None:
    assert [worker.hands_on(ONE), worker.hands_on(TWO), worker.hands_on(ONE)] == [True, True, False]
