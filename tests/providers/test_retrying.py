"""Retries are bounded in number and in time, and never double what was streamed (T13.3, T14.2)."""

from __future__ import annotations

import pytest

from lash_tasks.domain.messages import TextPart
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupted, InterruptReason, ModelStream, ProviderFailure
from lash_tasks.providers.retrying import RetryPolicy, with_retries
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.clocks import HookedClock
from tests.providers.parts import RecordingStream

ANSWER = ModelResponse((TextPart("Hello"),))


class Server:
    """Fails as often as it has failures left, then answers; `partial` is streamed before each failure."""

    def __init__(self, *failures: ProviderFailure, partial: str = "") -> None:
        self.failures = list(failures)
        self.partial = partial
        self.calls = 0

    def __call__(self, stream: ModelStream, until: float) -> ModelResponse:
        self.calls += 1
        if not self.failures:
            stream.text("Hello")
            return ANSWER
        if self.partial:
            stream.text(self.partial)
        raise self.failures.pop(0)


def passing(retry_after: float | None = None) -> ProviderFailure:
    return ProviderFailure("busy", code="503", retryable=True, retry_after=retry_after)


class Run:
    """`with_retries` on a fake clock."""

    def __init__(self, policy: RetryPolicy | None = None, *, seconds: float = 1000.0) -> None:
        self.clock = HookedClock()
        self.interrupt = TurnInterrupt(self.clock)
        self.stream = RecordingStream()
        self.seconds = seconds
        self.policy = policy or RetryPolicy()

    def __call__(self, server: Server) -> ModelResponse:
        return with_retries(
            server,
            policy=self.policy,
            clock=self.clock,
            random=lambda: 0.5,
            deadline=self.clock.monotonic() + self.seconds,
            stream=self.stream,
            interrupt=self.interrupt,
        )


def test_waits_double_from_two_seconds_and_four_attempts_are_the_end() -> None:
    run, server = Run(), Server(*[passing() for _ in range(9)])
    began = run.clock.monotonic()
    with pytest.raises(ProviderFailure, match="busy"):
        run(server)
    assert server.calls == 4
    assert run.stream.of("retrying") == [(1, 4, 2.0), (2, 4, 4.0), (3, 4, 8.0)]
    assert run.clock.monotonic() - began == 14.0


def test_two_passing_failures_are_two_retries_and_one_answer() -> None:
    run, server = Run(), Server(passing(), passing())
    assert run(server) is ANSWER
    assert run.stream.of("retrying") == [(1, 4, 2.0), (2, 4, 4.0)]
    assert run.stream.of("text") == ["Hello"]


def test_the_wait_is_capped() -> None:
    run = Run(RetryPolicy(max_attempts=6))
    run(Server(*[passing() for _ in range(5)]))
    assert run.stream.of("retrying") == [(1, 6, 2.0), (2, 6, 4.0), (3, 6, 8.0), (4, 6, 10.0), (5, 6, 10.0)]


@pytest.mark.parametrize(("cap", "wait"), [(60.0, 60.0), (None, 120.0)])
def test_retry_after_comes_before_our_own_wait_up_to_the_cap(cap: float | None, wait: float) -> None:
    run = Run(RetryPolicy(retry_after_cap_seconds=cap, jitter_seconds=5.0))
    run(Server(passing(retry_after=120.0)))
    assert run.stream.of("retrying") == [(1, 4, wait)]


def test_jitter_spreads_the_waits() -> None:
    run = Run(RetryPolicy(jitter_seconds=3.0))
    run(Server(passing()))
    assert run.stream.of("retrying") == [(1, 4, 3.5)]


def test_one_attempt_means_no_retry() -> None:
    run, server = Run(RetryPolicy(max_attempts=1)), Server(passing())
    with pytest.raises(ProviderFailure):
        run(server)
    assert (server.calls, run.stream.events) == (1, [])


def test_a_failure_for_good_is_raised_at_once() -> None:
    run, server = Run(), Server(ProviderFailure("no", code="400"))
    with pytest.raises(ProviderFailure, match="no"):
        run(server)
    assert (server.calls, run.stream.events) == (1, [])


def test_a_wait_that_would_outlast_the_call_is_not_begun() -> None:
    run, server = Run(seconds=5.0), Server(passing(), passing())
    began = run.clock.monotonic()
    with pytest.raises(ProviderFailure):
        run(server)
    assert server.calls == 2
    assert run.clock.monotonic() - began == 2.0


def test_what_was_streamed_before_a_retry_is_reset_once() -> None:
    run = Run()
    run(Server(passing(), passing(), partial="Hel"))
    assert [name for name, _ in run.stream.events] == [
        "text",
        "retrying",
        "reset",
        "text",
        "retrying",
        "reset",
        "text",
    ]


def test_nothing_streamed_needs_no_reset() -> None:
    run = Run()
    run(Server(passing()))
    assert run.stream.of("reset") == []


def test_an_interrupt_ends_the_wait() -> None:
    run, server = Run(), Server(passing(), partial="Hel")
    run.clock.on_wait = lambda: run.interrupt.set(InterruptReason.DRAINING)
    with pytest.raises(Interrupted) as caught:
        run(server)
    assert caught.value.reason is InterruptReason.DRAINING
    assert server.calls == 1
    assert run.stream.of("reset") == []


def test_a_failure_that_an_interrupt_caused_is_the_interrupt() -> None:
    run = Run()
    run.interrupt.set(InterruptReason.LOST)
    with pytest.raises(Interrupted):
        run(Server(ProviderFailure("broken", code="connection_lost")))
