"""Leases say who may try: one holder at a time, until it lets go or its time is up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks.clock import Clock, FakeClock
from lash_tasks.domain.ids import LeaseToken
from lash_tasks.stores.memory import MemoryStores, open_memory_stores
from lash_tasks.stores.memory.expiring import SWEEP_ABOVE, ExpiringKeys
from lash_tasks.stores.protocols import Leases, LeaseState, Released
from lash_tasks.stores.redis import RedisStores, open_redis_stores
from tests.services import wait_until

pytest_plugins = ["tests.redis_keys"]

SCOPE = "session:customer-7"
OURS = LeaseToken("ours")
THEIRS = LeaseToken("theirs")
LONG_MS = 60_000
SHORT_MS = 50


@pytest.fixture
def leases(volatile_stores: MemoryStores | RedisStores) -> Leases:
    return volatile_stores.leases


def wait_until_expired(leases: Leases, scope: str) -> None:
    wait_until(lambda: not leases.held([scope]), 5, f"the lease of {scope} to expire")


@pytest.mark.shows("L1")
def test_a_free_lease_is_taken_by_the_first_who_asks(leases: Leases) -> None:
    assert not leases.held([SCOPE])
    assert leases.acquire(SCOPE, OURS, LONG_MS)
    assert leases.held([SCOPE])
    assert not leases.acquire(SCOPE, THEIRS, LONG_MS)


@pytest.mark.shows("L1")
def test_a_lease_is_not_reentrant(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, LONG_MS)
    assert not leases.acquire(SCOPE, OURS, LONG_MS)


def test_leases_of_different_scopes_are_independent(leases: Leases) -> None:
    scopes = ["session:a", "session:a:b", "session:a/b", "session:größe", "process:a"]
    assert all(leases.acquire(scope, OURS, LONG_MS) for scope in scopes)
    leases.release("session:a", OURS)
    assert leases.held(scopes) == frozenset(scopes[1:])


@pytest.mark.shows("L4")
def test_an_expired_lease_is_free(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, SHORT_MS)
    wait_until_expired(leases, SCOPE)
    assert leases.acquire(SCOPE, THEIRS, LONG_MS)


@pytest.mark.shows("L2")
def test_a_renewed_lease_outlives_its_first_term(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, 2_000)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.HELD}
    leases.acquire("session:not renewed", OURS, 2_000)
    wait_until_expired(leases, "session:not renewed")
    assert leases.held([SCOPE])


def test_a_renewal_sets_the_term_anew_also_to_a_shorter_one(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, LONG_MS)
    leases.renew({SCOPE: OURS}, SHORT_MS)
    wait_until_expired(leases, SCOPE)


def test_renewing_asserts_a_missing_lease_again(leases: Leases) -> None:
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.REASSERTED}
    assert not leases.acquire(SCOPE, THEIRS, LONG_MS)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.HELD}


def test_renewing_asserts_an_expired_lease_again(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, SHORT_MS)
    wait_until_expired(leases, SCOPE)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.REASSERTED}
    assert leases.held([SCOPE])


def test_a_reasserted_lease_expires_like_any_other(leases: Leases) -> None:
    leases.renew({SCOPE: OURS}, SHORT_MS)
    wait_until_expired(leases, SCOPE)


@pytest.mark.shows("L2")
def test_a_foreign_lease_is_reported_and_stays_theirs(leases: Leases) -> None:
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.FOREIGN}
    assert leases.renew({SCOPE: THEIRS}, LONG_MS) == {SCOPE: LeaseState.HELD}


def test_renewing_does_not_prolong_a_foreign_lease(leases: Leases) -> None:
    leases.acquire(SCOPE, THEIRS, 500)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.FOREIGN}
    wait_until_expired(leases, SCOPE)


def test_one_renewal_tells_each_lease_its_own_state(leases: Leases) -> None:
    leases.acquire("session:kept", OURS, LONG_MS)
    leases.acquire("session:taken", THEIRS, LONG_MS)
    mine = {"session:taken": OURS, "session:lost": OURS, "session:kept": OURS}
    assert leases.renew(mine, LONG_MS) == {
        "session:kept": LeaseState.HELD,
        "session:taken": LeaseState.FOREIGN,
        "session:lost": LeaseState.REASSERTED,
    }


def test_a_worker_renews_a_thousand_leases(leases: Leases) -> None:
    mine = {f"session:{number}": LeaseToken(f"token {number}") for number in range(1000)}
    for scope, token in mine.items():
        leases.acquire(scope, token, LONG_MS)
    assert leases.renew(mine, LONG_MS) == dict.fromkeys(mine, LeaseState.HELD)


def test_renewing_nothing_is_no_error(leases: Leases) -> None:
    assert leases.renew({}, LONG_MS) == {}


def test_a_released_lease_can_be_taken_at_once(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, LONG_MS)
    assert leases.release(SCOPE, OURS) is Released.QUIET
    assert not leases.held([SCOPE])
    assert leases.acquire(SCOPE, THEIRS, LONG_MS)


def test_who_is_turned_away_leaves_a_knock_that_survives_renewals(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, LONG_MS)
    for _ in range(2):
        assert not leases.acquire(SCOPE, THEIRS, LONG_MS)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.HELD}
    assert leases.release(SCOPE, OURS) is Released.KNOCKED
    assert not leases.held([SCOPE])


def test_a_knock_is_for_one_holder_only(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, LONG_MS)
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    leases.release(SCOPE, OURS)
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    assert leases.release(SCOPE, THEIRS) is Released.QUIET


def test_a_lease_that_was_gone_for_a_while_counts_as_knocked_at(leases: Leases) -> None:
    """A sender's doorbell was turned away, Redis was emptied, the keeper asserted the lease again. The mark that said
    that there is more to do was gone, and the input waited for the sweep."""
    leases.acquire(SCOPE, OURS, SHORT_MS)
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    wait_until_expired(leases, SCOPE)
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.REASSERTED}
    assert leases.renew({SCOPE: OURS}, LONG_MS) == {SCOPE: LeaseState.HELD}
    assert leases.release(SCOPE, OURS) is Released.KNOCKED


def test_a_knock_lengthens_no_term(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, SHORT_MS)
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    wait_until_expired(leases, SCOPE)
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    assert leases.release(SCOPE, THEIRS) is Released.QUIET


@pytest.mark.shows("L3")
def test_a_stale_release_leaves_the_new_holder(leases: Leases) -> None:
    leases.acquire(SCOPE, OURS, LONG_MS)
    leases.release(SCOPE, OURS)
    leases.acquire(SCOPE, THEIRS, LONG_MS)
    assert leases.release(SCOPE, OURS) is Released.LOST
    assert leases.renew({SCOPE: THEIRS}, LONG_MS) == {SCOPE: LeaseState.HELD}


def test_releasing_what_is_gone_says_so(leases: Leases) -> None:
    assert leases.release(SCOPE, OURS) is Released.LOST


def test_of_32_who_ask_at_once_one_gets_the_lease(leases: Leases) -> None:
    with ThreadPoolExecutor(32) as pool:
        for round_ in range(20):
            start = threading.Barrier(32)

            def ask(number: int, scope: str = f"session:{round_}", start: threading.Barrier = start) -> bool:
                start.wait(10)
                return leases.acquire(scope, LeaseToken(f"token {number}"), LONG_MS)

            assert sum(pool.map(ask, range(32))) == 1


def test_two_applications_on_one_redis_do_not_meet(redis_url: str) -> None:
    one, other = open_redis_stores(redis_url, namespace="one"), open_redis_stores(redis_url)
    assert one.leases.acquire(SCOPE, OURS, LONG_MS)
    assert other.leases.acquire(SCOPE, THEIRS, LONG_MS)
    one.close()
    other.close()


def test_two_workers_on_one_redis_share_its_leases(redis_url: str) -> None:
    one, other = open_redis_stores(redis_url, namespace="one"), open_redis_stores(redis_url, namespace="one")
    assert one.leases.acquire(SCOPE, OURS, LONG_MS)
    assert not other.leases.acquire(SCOPE, THEIRS, LONG_MS)
    one.close()
    other.close()


@pytest.mark.shows("L5")
def test_in_memory_a_lease_ends_exactly_with_its_term() -> None:
    clock = FakeClock()
    leases = open_memory_stores(clock=clock).leases
    leases.acquire(SCOPE, OURS, 6_000)
    clock.advance(5.999)
    assert not leases.acquire(SCOPE, THEIRS, 6_000)
    clock.advance(0.001)
    assert leases.acquire(SCOPE, THEIRS, 6_000)


def test_in_memory_taking_a_lease_is_one_step(dawdling_clock: Clock) -> None:
    leases = open_memory_stores(clock=dawdling_clock).leases
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda token: leases.acquire(SCOPE, token, LONG_MS), [OURS, THEIRS])) == 1


def test_in_memory_keys_that_nobody_asks_for_again_do_not_pile_up() -> None:
    clock = FakeClock()
    keys = ExpiringKeys(clock)
    for number in range(20 * SWEEP_ABOVE):
        keys.put(str(number), "", ttl_ms=100)
        clock.advance(0.001)
    assert len(keys) <= SWEEP_ABOVE
