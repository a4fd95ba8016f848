"""A provider takes so many calls at a time and so many a minute: workers share one account of it, and stand in a queue.

Here one process keeps the account; workers on several machines keep it in Redis, by the same rules.
"""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.clock import FakeClock
from lash_tasks.stores.memory.admissions import MemoryAdmissions
from lash_tasks.stores.protocols import AdmissionRequest

ASK = AdmissionRequest(
    provider="vllm",
    ticket="first",
    tokens=0,
    concurrency=1,
    requests_per_minute=2,
    tokens_per_minute=None,
    ttl_ms=6_000,
)


def test_who_finds_no_place_is_told_when_to_ask_again() -> None:
    admissions = MemoryAdmissions(FakeClock())
    assert admissions.admit(ASK) is None

    second = replace(ASK, ticket="second")
    not_yet = admissions.admit(second)
    assert not_yet is not None
    assert 0 < not_yet.wait_ms <= 1_000

    admissions.leave("vllm", "first")
    assert admissions.admit(replace(second, arrived=not_yet.arrived)) is None


def test_a_place_comes_back_from_a_worker_that_died() -> None:
    """A living one renews it."""
    clock = FakeClock()
    admissions = MemoryAdmissions(clock)
    admissions.admit(ASK)
    clock.advance(4)
    admissions.renew("vllm", ["first"], 6_000)
    clock.advance(4)
    assert admissions.admit(replace(ASK, ticket="second")) is not None

    clock.advance(2)
    assert admissions.admit(replace(ASK, ticket="second")) is None


def test_a_refusal_of_the_provider_holds_everybody() -> None:
    """One worker reads `Retry-After: 20`; no other has to be refused to learn of it."""
    clock = FakeClock()
    admissions = MemoryAdmissions(clock)
    admissions.admit(ASK)
    admissions.leave("vllm", "first", pause_ms=20_000)

    assert admissions.admit(replace(ASK, ticket="second")) is not None
    clock.advance(20)
    assert admissions.admit(replace(ASK, ticket="second")) is None
