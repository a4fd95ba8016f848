"""The gate of a provider with limits: who waits, for how long, and who learns of a refusal."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from lash_tasks.domain.agents import ToolSpec
from lash_tasks.domain.ids import BlobRef, CallId, LeaseToken, SessionId, WorkerId
from lash_tasks.domain.messages import ImagePart, Role, TextPart, ToolCallPart
from lash_tasks.domain.models import Limits
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.requests import ModelMessage, ModelRequest
from lash_tasks.ports import OPEN_GATE, Interrupted, InterruptReason, Passed, Provider, ProviderFailure
from lash_tasks.runtime.gatekeeper import Gatekeeper, estimated_tokens, pause_seconds
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.runtime.worker import Doing, Engagement, Worker
from lash_tasks.stores.memory.admissions import MemoryAdmissions
from tests.clocks import HookedClock

REQUEST = ModelRequest("Answer.", (ModelMessage(Role.USER, (TextPart("x" * 33),)),))
TTL_MS = 6_000


class Known:
    """Providers that are nothing but their limits."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits

    def limits(self, name: str) -> Limits | None:
        return self._limits

    def get(self, name: str) -> Provider:
        raise AssertionError("a gatekeeper asks no model")


class At:
    """A worker before a provider with limits; workers of one `admissions` share them."""

    def __init__(self, limits: Limits, other: At | None = None) -> None:
        self.clock: HookedClock = other.clock if other else HookedClock()
        self.admissions: MemoryAdmissions = other.admissions if other else MemoryAdmissions(self.clock)
        self.worker = Worker(WorkerId("w"), self.clock)
        self.engagement = Engagement(SessionId("s"), LeaseToken("t"), TurnInterrupt(self.clock), doing=Doing.MODEL_CALL)
        self.waits = 0
        self._tickets = (f"{id(self)}:{number}" for number in range(1000))
        self.keeper = Gatekeeper(
            self.admissions, Known(limits), self.worker, self.clock, lambda: next(self._tickets), TTL_MS
        )

    def attempt(self, *, timeout: float = 30, turn: float = 600) -> AbstractContextManager[Passed]:
        """An attempt of a call that may take `timeout`, in a turn that may still take `turn`."""
        now = self.clock.monotonic()
        gate = self.keeper.gate("vllm", REQUEST, now + turn, self.engagement, self._waits)
        return gate.attempt(now + timeout, self.engagement.interrupt)

    def _waits(self) -> None:
        self.waits += 1


ONE_AT_A_TIME = Limits(concurrency=1)


@pytest.mark.parametrize("limits", [None, Limits()])
def test_a_provider_without_limits_has_no_gate(limits: Limits | None) -> None:
    at = At(ONE_AT_A_TIME)
    keeper = Gatekeeper(at.admissions, Known(limits), at.worker, at.clock, str, TTL_MS)
    assert keeper.gate("vllm", REQUEST, 0, at.engagement, at._waits) is OPEN_GATE


def test_who_waits_says_so_and_gets_the_time_that_it_waited() -> None:
    first = At(ONE_AT_A_TIME)
    second = At(ONE_AT_A_TIME, first)
    inside = first.attempt()
    inside.__enter__()
    doing = set[Doing]()

    def leave_at_last() -> None:
        doing.add(second.engagement.doing)
        if second.clock.monotonic() - began >= 3:
            inside.__exit__(None, None, None)

    began = first.clock.monotonic()
    first.clock.on_wait = leave_at_last
    with second.attempt(timeout=30) as passed:
        waited = first.clock.monotonic() - began
        assert passed.deadline == pytest.approx(began + waited + 30)
    assert 3 <= waited <= 5
    assert (second.waits, doing, second.engagement.doing) == (1, {Doing.WAITING}, Doing.MODEL_CALL)


@pytest.mark.raises_code("provider_limit")
def test_the_time_of_the_turn_is_the_end_of_all_waiting() -> None:
    first = At(ONE_AT_A_TIME)
    second = At(ONE_AT_A_TIME, first)
    with first.attempt():
        first.clock.on_wait = first.keeper.renew
        began = first.clock.monotonic()
        with pytest.raises(ProviderFailure) as caught, second.attempt(turn=20):
            raise AssertionError("it was let through")
        assert (caught.value.code, caught.value.retryable) == (ErrorCode.PROVIDER_LIMIT, True)
        assert first.clock.monotonic() - began == pytest.approx(20)


def test_a_drain_waits_for_no_provider() -> None:
    first = At(ONE_AT_A_TIME)
    second = At(ONE_AT_A_TIME, first)
    with first.attempt():
        second.worker.begin_drain()
        with pytest.raises(Interrupted) as caught, second.attempt():
            raise AssertionError("it was let through")
    assert caught.value.reason is InterruptReason.DRAINING
    with At(ONE_AT_A_TIME, first).attempt():
        pass  # the one that gave up keeps nobody waiting


def test_an_interrupt_ends_the_wait() -> None:
    first = At(ONE_AT_A_TIME)
    second = At(ONE_AT_A_TIME, first)
    first.clock.on_wait = lambda: second.engagement.interrupt.set(InterruptReason.CANCELLED)
    with first.attempt(), pytest.raises(Interrupted), second.attempt():
        raise AssertionError("it was let through")


def test_a_refusal_holds_all_workers_until_the_provider_wants_to_be_asked_again() -> None:
    first = At(ONE_AT_A_TIME)
    with pytest.raises(ProviderFailure), first.attempt():
        raise ProviderFailure("slow down", code="429", status=429, retryable=True, retry_after=7)
    began = first.clock.monotonic()
    with At(ONE_AT_A_TIME, first).attempt():
        assert first.clock.monotonic() - began == pytest.approx(7)


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (ProviderFailure("", code="429", status=429, retryable=True, retry_after=7), 7),
        (ProviderFailure("", code="429", status=429, retryable=True), 2),
        (ProviderFailure("", code="429", status=429, retryable=True, retry_after=3600), 60),
        (ProviderFailure("", code="529", status=529, retryable=True, retry_after=4), 4),
        (ProviderFailure("", code="503", status=503, retryable=True), 0),
        (ProviderFailure("", code="insufficient_quota", status=429), 0),
    ],
)
def test_what_a_failure_says_of_when_to_ask_again(failure: ProviderFailure, seconds: float) -> None:
    assert pause_seconds(failure) == seconds


def test_what_a_call_used_counts_instead_of_the_estimate() -> None:
    limits = Limits(tokens_per_minute=100)
    first = At(limits)
    with first.attempt() as passed:
        passed.tokens = 95
    began = first.clock.monotonic()
    with At(limits, first).attempt():
        assert first.clock.monotonic() - began >= 60


def test_a_call_that_runs_keeps_its_place_for_as_long_as_it_takes() -> None:
    first = At(ONE_AT_A_TIME)
    with first.attempt():
        for _ in range(5):
            first.clock.advance(TTL_MS / 3000)
            first.keeper.renew()
        second = At(ONE_AT_A_TIME, first)
        with pytest.raises(ProviderFailure), second.attempt(turn=1):
            raise AssertionError("it was let through")


def test_tokens_are_estimated_by_all_that_is_sent() -> None:
    assert estimated_tokens(ModelRequest("", ())) == 1
    assert estimated_tokens(REQUEST) == 10
    image = ImagePart(BlobRef("0f" * 32), "image/png", "photo")
    call = ToolCallPart(CallId("a"), "look", "x" * 40)
    tools = (ToolSpec("look", "x" * 40, {}),)
    assert estimated_tokens(ModelRequest("", (ModelMessage(Role.USER, (image, call)),), tools)) == (256 + 40 + 42) // 4
