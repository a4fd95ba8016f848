"""A slot goes to the first who asks, once in its span of time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks.clock import Clock
from lash_tasks.stores.memory import MemoryStores, open_memory_stores
from lash_tasks.stores.protocols import Slots
from lash_tasks.stores.redis import RedisStores
from tests.services import wait_until

pytest_plugins = ["tests.redis_keys"]

LONG_MS = 60_000


@pytest.fixture
def slots(volatile_stores: MemoryStores | RedisStores) -> Slots:
    return volatile_stores.slots


def test_the_first_takes_the_slot_and_nobody_else_does(slots: Slots) -> None:
    assert slots.take("sweep", LONG_MS)
    assert not slots.take("sweep", LONG_MS)


def test_slots_of_different_names_are_independent(slots: Slots) -> None:
    slots.take("sweep", LONG_MS)
    assert slots.take("rescue", LONG_MS)


def test_a_slot_is_free_again_when_its_time_is_up(slots: Slots) -> None:
    slots.take("sweep", 50)
    wait_until(lambda: slots.take("sweep", LONG_MS), 5, "the slot to be free")
    assert not slots.take("sweep", LONG_MS)


def test_a_refused_attempt_does_not_prolong_the_slot(slots: Slots) -> None:
    slots.take("sweep", 500)
    assert not slots.take("sweep", LONG_MS)
    wait_until(lambda: slots.take("sweep", LONG_MS), 5, "the slot to be free")


def test_many_slots_are_answered_one_by_one(slots: Slots) -> None:
    slots.take("b", LONG_MS)
    assert slots.take_many(["a", "b", "c", "a"], LONG_MS) == [True, False, True, False]
    assert slots.take_many(["a", "b", "c"], LONG_MS) == [False, False, False]


def test_taking_no_slots_is_no_error(slots: Slots) -> None:
    assert slots.take_many([], LONG_MS) == []


def test_of_32_who_ask_at_once_one_takes_the_slot(slots: Slots) -> None:
    with ThreadPoolExecutor(32) as pool:
        for round_ in range(20):
            start = threading.Barrier(32)

            def ask(_: int, name: str = f"sweep {round_}", start: threading.Barrier = start) -> bool:
                start.wait(10)
                return slots.take(name, LONG_MS)

            assert sum(pool.map(ask, range(32))) == 1


def test_in_memory_taking_a_slot_is_one_step(dawdling_clock: Clock) -> None:
    slots = open_memory_stores(clock=dawdling_clock).slots
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda _: slots.take("sweep", LONG_MS), range(2))) == 1
