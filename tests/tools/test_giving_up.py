"""A timeout, an interrupt or a shutdown returns at once, whatever the function does; what it still does is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lash_tasks.clock import SystemClock
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import FailureClass, ToolFailure, ToolOutcome
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import Tool, tool
from tests.services import wait_until
from tests.tools.calls import NEVER, PATIENCE, Calls, ExpiresAfter
from tests.tools.conftest import Bench, lash_threads


class Stuck:
    """A sync tool that goes on until the test releases it, and an async one that ends only when it is cancelled."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()
        self.ended = threading.Event()
        self.runs = 0
        self.contexts: list[ToolContext] = []

    def sync(self) -> Tool[..., object]:
        @tool
        def stuck(ctx: ToolContext) -> str:
            self.runs += 1
            self.contexts.append(ctx)
            self.begun.set()
            assert self.release.wait(PATIENCE)
            self.ended.set()
            return "too late"

        return stuck

    def coroutine(self) -> Tool[..., object]:
        @tool
        async def stuck(ctx: ToolContext) -> str:
            self.contexts.append(ctx)
            self.begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
            return "never"

        return stuck


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.release.set()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def interruptible(callers: ThreadPoolExecutor, calls: Calls, interrupt: TurnInterrupt) -> Future[ToolOutcome]:
    return callers.submit(calls.outcome, "stuck", interrupt=interrupt)


def timed_out(message: str) -> ToolFailure:
    return ToolFailure(FailureClass.TIMEOUT, "tool_timeout", message)


def test_a_sync_function_that_takes_too_long_is_left_behind(bench: Bench, stuck: Stuck) -> None:
    calls = bench(stuck.sync(), clock=ExpiresAfter(stuck.begun))
    assert calls.failure("stuck", timeout=7) == timed_out(
        "tool stuck did not finish within 7 s; whether it had an effect is unknown"
    )
    assert stuck.contexts[0].cancelled
    assert not stuck.ended.is_set()
    stuck.release.set()
    assert stuck.ended.wait(PATIENCE)


def test_a_timeout_by_the_machines_clock(bench: Bench, stuck: Stuck) -> None:
    assert bench(stuck.sync()).failure("stuck", timeout=0.05).code == "tool_timeout"


def test_an_async_function_that_takes_too_long_is_cancelled(bench: Bench, stuck: Stuck) -> None:
    calls = bench(stuck.coroutine(), clock=ExpiresAfter(stuck.begun))
    assert calls.failure("stuck").code == "tool_timeout"
    assert stuck.ended.wait(PATIENCE)
    assert stuck.contexts[0].cancelled


def test_without_time_left_nothing_is_called(bench: Bench, stuck: Stuck) -> None:
    assert bench(stuck.sync()).failure("stuck", timeout=0) == timed_out("tool stuck was not called: no time is left")
    assert stuck.runs == 0


def test_a_call_that_found_no_free_thread_in_time_is_never_made(
    bench: Bench, stuck: Stuck, callers: ThreadPoolExecutor
) -> None:
    opened: list[int] = []

    @contextmanager
    def deps() -> Iterator[None]:
        opened.append(1)
        yield

    calls = bench(stuck.sync(), max_threads=1, deps=deps)
    first = callers.submit(calls.outcome, "stuck")
    assert stuck.begun.wait(PATIENCE)
    assert "was not called: no thread was free" in calls.failure("stuck", timeout=0.05).message
    stuck.release.set()
    assert first.result(PATIENCE).value == "too late"
    assert calls.value("stuck") == "too late"
    assert stuck.runs == len(opened) == 2


def test_a_call_whose_deps_open_too_late_is_never_made(bench: Bench, stuck: Stuck) -> None:
    opening, closed = threading.Event(), threading.Event()

    @contextmanager
    def slow_deps() -> Iterator[None]:
        opening.set()
        assert stuck.release.wait(PATIENCE)
        yield
        closed.set()

    calls = bench(stuck.sync(), deps=slow_deps, clock=ExpiresAfter(opening))
    assert "was not called: no thread was free or deps did not open" in calls.failure("stuck").message
    stuck.release.set()
    assert closed.wait(PATIENCE)
    assert stuck.runs == 0


def test_deps_are_left_only_after_a_cancelled_coroutine_has_ended(bench: Bench) -> None:
    """A coroutine cleans up while it is cancelled, and needs its connection for that."""
    begun, left = threading.Event(), threading.Event()
    order: list[str] = []

    @contextmanager
    def deps() -> Iterator[None]:
        try:
            yield
        finally:
            order.append("deps left")
            left.set()

    @tool
    async def tidy() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            order.append("coroutine ended")

    assert bench(tidy, deps=deps, clock=ExpiresAfter(begun)).failure("tidy").code == "tool_timeout"
    assert left.wait(PATIENCE)
    assert order == ["coroutine ended", "deps left"]


def test_a_coroutine_that_will_not_be_cancelled_holds_nobody_up(bench: Bench) -> None:
    begun, release = threading.Event(), threading.Event()

    @tool
    async def stubborn() -> None:
        begun.set()
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    try:
        assert bench(stubborn, clock=ExpiresAfter(begun)).failure("stubborn").code == "tool_timeout"
    finally:
        release.set()


def test_a_coroutine_that_blocks_the_loop_holds_its_caller_up_no_longer_than_its_timeout(
    bench: Bench, stuck: Stuck
) -> None:
    @tool
    async def block() -> None:
        stuck.begun.set()
        assert stuck.release.wait(PATIENCE)

    calls = bench(block, clock=ExpiresAfter(stuck.begun))
    assert calls.failure("block").code == "tool_timeout"
    stuck.release.set()


@pytest.mark.parametrize("reason", InterruptReason)
def test_an_interrupt_leaves_a_sync_function_behind(
    bench: Bench, stuck: Stuck, callers: ThreadPoolExecutor, reason: InterruptReason
) -> None:
    interrupt = TurnInterrupt(SystemClock())
    call = interruptible(callers, bench(stuck.sync()), interrupt)
    assert stuck.begun.wait(PATIENCE)
    interrupt.set(reason)
    with pytest.raises(Interrupted) as caught:
        call.result(PATIENCE)
    assert caught.value.reason is reason
    assert not stuck.ended.is_set()
    assert stuck.contexts[0].cancelled


def test_an_interrupt_cancels_a_coroutine(bench: Bench, stuck: Stuck, callers: ThreadPoolExecutor) -> None:
    interrupt = TurnInterrupt(SystemClock())
    call = interruptible(callers, bench(stuck.coroutine()), interrupt)
    assert stuck.begun.wait(PATIENCE)
    interrupt.set(InterruptReason.DRAINING)
    with pytest.raises(Interrupted):
        call.result(PATIENCE)
    assert stuck.ended.wait(PATIENCE)


def test_an_interrupt_that_is_already_set_calls_nothing(bench: Bench, stuck: Stuck) -> None:
    interrupt = TurnInterrupt(SystemClock())
    interrupt.set(InterruptReason.LOST)
    with pytest.raises(Interrupted):
        bench(stuck.sync()).outcome("stuck", interrupt=interrupt)
    assert stuck.runs == 0
    assert not lash_threads()


def test_a_call_that_has_ended_counts_even_if_the_interrupt_comes_with_it(bench: Bench) -> None:
    interrupt = TurnInterrupt(SystemClock())

    class InterruptsAtTheEnd(SystemClock):
        def wait(self, event: threading.Event, seconds: float) -> bool:
            ended = super().wait(event, seconds)
            interrupt.set(InterruptReason.CANCELLED)
            return ended

    @tool
    def answer() -> int:
        return 42

    outcome = bench(answer, clock=InterruptsAtTheEnd()).outcome("answer", interrupt=interrupt)
    assert (outcome.status, outcome.value) == (ToolStatus.SUCCESS, 42)


def test_closing_interrupts_the_calls_in_flight_and_refuses_later_ones(
    bench: Bench, stuck: Stuck, callers: ThreadPoolExecutor
) -> None:
    calls = bench(stuck.sync(), max_threads=1)
    flying = [callers.submit(calls.outcome, "stuck") for _ in range(3)]
    assert stuck.begun.wait(PATIENCE)
    wait_until(lambda: len(calls.dispatcher.caller._in_flight) == 3, PATIENCE, "three calls in flight")
    calls.dispatcher.close()
    for call in [*flying, callers.submit(calls.outcome, "stuck")]:
        with pytest.raises(Interrupted) as caught:
            call.result(PATIENCE)
        assert caught.value.reason is InterruptReason.DRAINING
    assert stuck.runs == 1


def test_closing_interrupts_the_call_of_a_coroutine_and_ends_the_loop(
    bench: Bench, stuck: Stuck, callers: ThreadPoolExecutor
) -> None:
    calls = bench(stuck.coroutine())
    call = callers.submit(calls.outcome, "stuck")
    assert stuck.begun.wait(PATIENCE)
    calls.dispatcher.close()
    calls.dispatcher.close()
    with pytest.raises(Interrupted):
        call.result(PATIENCE)
    assert stuck.ended.is_set()


def test_what_closing_does_to_a_coroutine_is_not_taken_for_its_outcome(
    bench: Bench, stuck: Stuck, callers: ThreadPoolExecutor
) -> None:
    """The cancellation that `close` causes would be recorded as the tool's failure where the caller looks late."""
    looks = threading.Event()

    class LooksLate(SystemClock):
        def wait(self, event: threading.Event, seconds: float) -> bool:
            changed = super().wait(event, seconds)
            if seconds == NEVER:
                assert looks.wait(PATIENCE)
            return changed

    left = threading.Event()

    @contextmanager
    def deps() -> Iterator[None]:
        try:
            yield
        finally:
            left.set()

    calls = bench(stuck.coroutine(), clock=LooksLate(), deps=deps)
    call = callers.submit(calls.outcome, "stuck")
    assert stuck.begun.wait(PATIENCE)
    calls.dispatcher.close()
    assert left.wait(PATIENCE)
    wait_until(lambda: not lash_threads(), PATIENCE, "the call's thread to end")
    looks.set()
    with pytest.raises(Interrupted):
        call.result(PATIENCE)
