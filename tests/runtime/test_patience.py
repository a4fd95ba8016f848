"""A write that the database did not take is tried again for a while: a paid answer is worth a wait."""

from __future__ import annotations

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.errors import StoreError, StoreUnavailable
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.runtime.journal import RETRY_SECONDS, patiently


def test_patience_lasts_about_sixteen_seconds_and_ends_with_the_last_error() -> None:
    clock, tries = FakeClock(), iter(range(99))
    began = clock.monotonic()

    def write() -> None:
        raise StoreUnavailable(f"try {next(tries)}")

    with pytest.raises(StoreUnavailable, match=f"try {len(RETRY_SECONDS)}"):
        patiently(write, clock, TurnInterrupt(clock))
    assert clock.monotonic() - began == pytest.approx(sum(RETRY_SECONDS))


def test_patience_ends_at_once_with_the_turn() -> None:
    clock = FakeClock()
    interrupt = TurnInterrupt(clock)

    def write() -> None:
        interrupt.set(InterruptReason.LOST)
        raise StoreUnavailable("away")

    began = clock.monotonic()
    with pytest.raises(StoreUnavailable):
        patiently(write, clock, interrupt)
    assert clock.monotonic() == began


def test_patience_is_for_outages_alone() -> None:
    clock = FakeClock()

    def write() -> None:
        raise StoreError("no")

    with pytest.raises(StoreError, match="no"):
        patiently(write, clock, TurnInterrupt(clock))
