"""A drain: model calls get half of the grace, tools all of it, then everything is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lash_tasks.clock import SystemClock
from lash_tasks.domain.ids import LeaseToken, SessionId, WorkerId
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime import drain as drain_module
from lash_tasks.runtime.drain import drain
from lash_tasks.runtime.worker import Doing, Engagement, Worker
from tests.services import wait_until

GRACE = 0.2


@pytest.fixture
def worker() -> Worker:
    return Worker(WorkerId("w"), SystemClock())


@contextmanager
def at_work(worker: Worker, name: str, doing: Doing, until: Callable[[Engagement], object]) -> Iterator[Engagement]:
    """A thread that is engaged until `until` returns."""
    engaged = threading.Event()
    found: list[Engagement] = []

    def work() -> None:
        with worker.engage(SessionId(name), LeaseToken(name)) as engagement:
            assert engagement is not None
            engagement.doing = doing
            found.append(engagement)
            engaged.set()
            until(engagement)

    thread = threading.Thread(target=work)
    thread.start()
    assert engaged.wait(20)
    yield found[0]
    thread.join(20)


def until_interrupted(engagement: Engagement) -> None:
    assert engagement.interrupt.wait(20)


def test_an_idle_worker_is_drained_at_once(worker: Worker) -> None:
    assert drain(worker, 60)
    assert worker.draining


def test_who_waits_for_a_provider_is_interrupted_at_once(worker: Worker) -> None:
    with at_work(worker, "waiting", Doing.WAITING, until_interrupted) as waiting:
        assert drain(worker, 600)
        assert waiting.interrupt.reason is InterruptReason.DRAINING


def test_what_ends_within_half_of_the_grace_is_left_alone(worker: Worker) -> None:
    def soon(_engagement: Engagement) -> None:
        wait_until(lambda: worker.draining, 20, "the drain")

    with (
        at_work(worker, "model", Doing.MODEL_CALL, soon) as model,
        at_work(worker, "tools", Doing.TOOLS, soon) as tools,
    ):
        assert drain(worker, 60)
    assert (model.interrupt.reason, tools.interrupt.reason) == (None, None)


def test_model_calls_are_interrupted_at_half_of_the_grace_and_tools_may_go_on(worker: Worker) -> None:
    interrupted = threading.Event()

    def model_call(engagement: Engagement) -> None:
        until_interrupted(engagement)
        interrupted.set()

    with (
        at_work(worker, "model", Doing.MODEL_CALL, model_call) as model,
        at_work(worker, "tools", Doing.TOOLS, lambda _: interrupted.wait(20)) as tools,
    ):
        # Half of it passes for the model call; the tools end in the other half.
        assert drain(worker, 2 * GRACE)
    assert (model.interrupt.reason, tools.interrupt.reason) == (InterruptReason.DRAINING, None)


def test_after_the_grace_everything_is_interrupted_and_gets_to_say_its_last_words(worker: Worker) -> None:
    with (
        at_work(worker, "tools", Doing.TOOLS, until_interrupted) as tools,
        at_work(worker, "between", Doing.NOTHING, until_interrupted) as between,
    ):
        assert drain(worker, GRACE)
    assert {tools.interrupt.reason, between.interrupt.reason} == {InterruptReason.DRAINING}


def test_who_hears_nothing_keeps_the_drain_from_success(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "LAST_WORDS_SECONDS", 0.05)
    leave = threading.Event()
    with at_work(worker, "deaf", Doing.TOOLS, lambda _: leave.wait(20)):
        assert not drain(worker, 0.1)
        leave.set()
