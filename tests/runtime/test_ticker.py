"""The ticker takes each slot of time once in the whole fleet; a thread that repeats an action outlives its faults."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial

import pytest

from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.runtime.ticker import Periodic, Tick, Ticker
from lash_tasks.stores.memory.slots import MemorySlots


class NoSlots:
    """Redis cannot be reached: everybody is first."""

    def take(self, name: str, ttl_ms: int) -> bool:
        return True

    def take_many(self, names: Sequence[str], ttl_ms: int) -> list[bool]:
        return [True for _ in names]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_700_000_000_000)


def seconds(clock: FakeClock, *tickers: Ticker, count: float, step: float = 0.25) -> None:
    """Let every ticker look every `step` seconds."""
    for _ in range(round(count / step)):
        for ticker in tickers:
            ticker.tick()
        clock.advance(step)


def test_a_line_runs_once_in_each_of_its_slots(clock: FakeClock) -> None:
    ran: list[str] = []
    lines = {"often": Tick(1.0, lambda: ran.append("often")), "rarely": Tick(5.0, lambda: ran.append("rarely"))}
    seconds(clock, Ticker(lines, MemorySlots(clock), clock), count=10)
    assert (ran.count("often"), ran.count("rarely")) == (10, 2)


def test_of_many_workers_one_takes_each_slot(clock: FakeClock) -> None:
    ran: list[int] = []
    slots = MemorySlots(clock)
    tickers = [Ticker({"line": Tick(1.0, partial(ran.append, n))}, slots, clock) for n in range(3)]
    seconds(clock, *tickers, count=10)
    assert len(ran) == 10


def test_without_redis_every_worker_runs_every_line_once_a_slot(clock: FakeClock) -> None:
    ran: list[int] = []
    tickers = [Ticker({"line": Tick(1.0, partial(ran.append, n))}, NoSlots(), clock) for n in range(3)]
    seconds(clock, *tickers, count=10)
    assert len(ran) == 30


def test_a_line_that_fails_does_not_keep_the_others_from_running(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def fail() -> None:
        ran.append("failing")
        raise LookupError("inside")

    ticker = Ticker({"bad": Tick(1.0, fail), "good": Tick(1.0, lambda: ran.append("good"))}, MemorySlots(clock), clock)
    seconds(clock, ticker, count=2)
    assert ran == ["failing", "good"] * 2
    assert [vars(record)["pass"] for record in caplog.records if record.levelno == logging.ERROR] == ["bad", "bad"]


# ---------------------------------------------------------------- Periodic


def test_an_action_is_repeated_also_after_it_raised(caplog: pytest.LogCaptureFixture) -> None:
    again = threading.Semaphore(0)

    def action() -> None:
        again.release()
        raise LookupError("inside")

    periodic = Periodic("test", 0.01, action, SystemClock())
    periodic.start()
    for _ in range(3):
        assert again.acquire(timeout=20)
    periodic.stop()
    assert {record.getMessage() for record in caplog.records} == {"a periodic action failed"}
    assert vars(caplog.records[0])["action"] == "lash-test"


def test_stopping_ends_the_thread_without_waiting_for_the_next_time() -> None:
    acted = threading.Event()
    periodic = Periodic("test", 3600, acted.set, SystemClock())
    periodic.start()
    assert acted.wait(20)
    periodic.stop()
    assert "lash-test" not in {thread.name for thread in threading.enumerate()}
    periodic.stop()


def test_an_action_may_stop_its_own_thread_and_one_that_never_started_stops_too() -> None:
    Periodic("test", 1, lambda: None, SystemClock()).stop()
    stopped = threading.Event()

    def action() -> None:
        periodic.stop()
        stopped.set()

    periodic = Periodic("test", 0.01, action, SystemClock())
    periodic.start()
    assert stopped.wait(20)
