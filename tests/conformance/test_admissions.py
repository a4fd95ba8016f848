"""Admission to providers: limits hold over all who ask, in the order in which they came, and nothing stays taken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.stores.memory import MemoryStores, open_memory_stores
from lash_tasks.stores.protocols.admissions import GRACE_MS, MAX_WAIT_MS, AdmissionRequest, Admissions, NotYet
from lash_tasks.stores.redis import RedisStores, open_redis_stores

pytest_plugins = ["tests.redis_keys"]

TTL_MS = 6_000


@pytest.fixture
def clock() -> FakeClock:
    """Moves the time by which limits are kept."""
    return FakeClock(1_000_000)


@pytest.fixture(params=["memory", "redis"])
def volatile_stores(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[MemoryStores | RedisStores]:
    if request.param == "memory":
        stores: MemoryStores | RedisStores = open_memory_stores(clock=clock)
    else:
        stores = open_redis_stores(request.getfixturevalue("redis_url"), skew_ms=clock.now_ms)
    yield stores
    stores.close()


@dataclass
class Gate:
    """Asks for one provider in a test's words."""

    admissions: Admissions
    concurrency: int | None = None
    requests: int | None = None
    tokens: int | None = None
    provider: str = "openai"

    def asks(self, ticket: str, tokens: int = 1, arrived: int | None = None) -> NotYet | None:
        return self.admissions.admit(
            AdmissionRequest(
                provider=self.provider,
                ticket=ticket,
                tokens=tokens,
                concurrency=self.concurrency,
                requests_per_minute=self.requests,
                tokens_per_minute=self.tokens,
                ttl_ms=TTL_MS,
                arrived=arrived,
            )
        )

    def enters(self, ticket: str, tokens: int = 1, arrived: int | None = None) -> bool:
        return self.asks(ticket, tokens, arrived) is None

    def waits(self, ticket: str, tokens: int = 1) -> NotYet:
        answer = self.asks(ticket, tokens)
        assert answer is not None, f"{ticket} was admitted"
        assert 0 < answer.wait_ms <= MAX_WAIT_MS
        return answer

    def leaves(self, ticket: str, *, held_ms: int | None = None, tokens: int | None = None, pause_ms: int = 0) -> None:
        self.admissions.leave(self.provider, ticket, held_ms=held_ms, tokens=tokens, pause_ms=pause_ms)


@pytest.fixture
def gate(volatile_stores: MemoryStores | RedisStores) -> Gate:
    """Without limits; a test sets its own."""
    return Gate(volatile_stores.admissions)


def test_no_more_are_inside_than_there_are_places(gate: Gate) -> None:
    gate.concurrency = 2
    assert gate.enters("a")
    assert gate.enters("b")
    gate.waits("c")
    gate.leaves("a")
    assert gate.enters("c")


def test_providers_have_places_of_their_own(gate: Gate) -> None:
    gate.concurrency = 1
    assert gate.enters("a")
    assert replace(gate, provider="anthropic").enters("b")


def test_many_who_ask_at_once_get_the_places_there_are(gate: Gate) -> None:
    gate.concurrency = 5
    lock, inside, most = Lock(), 0, 0

    def call(number: int) -> bool:
        nonlocal inside, most
        if not gate.enters(f"t{number}"):
            return False
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        return True

    with ThreadPoolExecutor(16) as pool:
        admitted = sum(pool.map(call, range(64)))
    assert (admitted, most <= 5) == (5, True)


def test_the_place_of_one_who_died_comes_back(gate: Gate, clock: FakeClock) -> None:
    gate.concurrency = 1
    gate.enters("dead")
    waiting = gate.waits("next")
    clock.advance(TTL_MS / 1000)
    assert gate.enters("next", arrived=waiting.arrived)


def test_a_place_that_is_renewed_stays_taken(gate: Gate, clock: FakeClock) -> None:
    gate.concurrency = 1
    gate.enters("alive")
    for _ in range(5):
        clock.advance(TTL_MS / 2000)
        gate.admissions.renew("openai", ["alive"], TTL_MS)
    gate.waits("next")


def test_a_place_that_was_given_back_is_not_renewed(gate: Gate) -> None:
    gate.concurrency = 1
    gate.enters("a")
    gate.leaves("a")
    gate.admissions.renew("openai", ["a"], TTL_MS)
    assert gate.enters("b")


def test_who_came_first_is_served_first(gate: Gate) -> None:
    gate.concurrency = 1
    gate.enters("inside")
    first, second = gate.waits("z first"), gate.waits("a second")
    gate.leaves("inside")
    assert not gate.enters("third")
    assert not gate.enters("a second", arrived=second.arrived)
    assert gate.enters("z first", arrived=first.arrived)


def test_a_clock_that_goes_back_lets_nobody_overtake(gate: Gate, clock: FakeClock) -> None:
    gate.concurrency = 1
    gate.enters("inside")
    first = gate.waits("z first")
    clock.advance(-1)
    gate.waits("a second")
    gate.leaves("inside")
    assert not gate.enters("third")
    assert gate.enters("z first", arrived=first.arrived)


def test_who_stops_asking_keeps_nobody_waiting(gate: Gate, clock: FakeClock) -> None:
    gate.concurrency = 1
    gate.enters("inside")
    gone = gate.waits("gone")
    gate.leaves("inside")
    waiting = gate.waits("second")
    clock.advance((gone.wait_ms + GRACE_MS) / 1000)
    assert gate.enters("second", arrived=waiting.arrived)


def test_who_leaves_the_queue_keeps_nobody_waiting(gate: Gate) -> None:
    gate.concurrency = 1
    gate.enters("inside")
    gate.waits("gone")
    gate.leaves("inside")
    gate.leaves("gone")
    assert gate.enters("second")


def test_calls_that_last_longer_are_asked_after_less_often(gate: Gate) -> None:
    gate.concurrency = 1
    gate.enters("a")
    before = gate.waits("b").wait_ms
    gate.leaves("b")
    gate.leaves("a", held_ms=60_000)
    gate.enters("c")
    assert gate.waits("b").wait_ms > before


def test_no_minute_sees_more_requests_than_the_limit(gate: Gate, clock: FakeClock) -> None:
    """Also not one that begins in the middle of another."""
    gate.requests = 3
    assert gate.enters("a")
    clock.advance(40)
    assert gate.enters("b")
    assert gate.enters("c")
    for ticket in "abc":
        gate.leaves(ticket)
    gate.waits("d")
    clock.advance(19)
    late = gate.waits("d")
    assert late.wait_ms <= 1000
    clock.advance(1)
    assert gate.enters("d", arrived=late.arrived)
    gate.waits("e")


def test_no_minute_sees_more_tokens_than_the_limit(gate: Gate, clock: FakeClock) -> None:
    gate.tokens = 100
    assert gate.enters("a", 60)
    clock.advance(30)
    assert gate.enters("b", 40)
    gate.waits("c", 50)
    clock.advance(30)
    assert gate.enters("c", 50)


def test_what_a_call_really_used_counts(gate: Gate, clock: FakeClock) -> None:
    gate.tokens = 100
    gate.enters("a", 10)
    gate.leaves("a", tokens=99)
    gate.waits("b", 2)
    gate.leaves("b")
    gate.leaves("a", tokens=1)
    assert gate.enters("c", 98)


def test_a_request_that_is_larger_than_the_limit_passes_when_nothing_else_counts(gate: Gate, clock: FakeClock) -> None:
    gate.tokens = 100
    gate.enters("small", 1)
    big = gate.waits("big", 5000)
    assert not gate.enters("behind it", 1)
    clock.advance(60 - MAX_WAIT_MS / 1000)
    big = gate.asks("big", 5000, big.arrived) or big
    clock.advance(MAX_WAIT_MS / 1000)
    assert gate.enters("big", 5000, big.arrived)


def test_a_pause_holds_everybody_until_it_is_over(gate: Gate, clock: FakeClock) -> None:
    gate.concurrency = 5
    gate.enters("a")
    gate.leaves("a", pause_ms=4_000)
    gate.enters("b")
    assert gate.waits("c").wait_ms > 3_000
    gate.leaves("b", pause_ms=1_000)
    clock.advance(3.5)
    waiting = gate.waits("c")
    clock.advance(0.5)
    assert gate.enters("c", arrived=waiting.arrived)


def test_leaving_twice_changes_nothing(gate: Gate) -> None:
    gate.concurrency, gate.tokens = 1, 100
    gate.enters("a", 50)
    for _ in range(2):
        gate.leaves("a", tokens=10)
    assert gate.enters("b", 90)
    gate.leaves("a", tokens=10)
    gate.waits("c", 1)
