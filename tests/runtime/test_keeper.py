"""The keeper renews the leases of what runs, asserts again what Redis lost, and leaves everything else alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import LeaseToken, SessionId, TurnId, WorkerId, fence_scope
from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.runtime.keeper import LeaseKeeper
from lash_tasks.runtime.worker import Engagement, Worker
from lash_tasks.stores.memory.leases import MemoryLeases
from lash_tasks.stores.protocols import LeaseState

ONE, TWO = SessionId("one"), SessionId("two")
OURS, THEIRS = LeaseToken("ours"), LeaseToken("theirs")
TTL_MS = 6000


class Leases(MemoryLeases):
    """Leases to which something may happen before or after a renewal."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.renewals = 0
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def renew(self, leases: Mapping[str, LeaseToken], ttl_ms: int) -> dict[str, LeaseState]:
        self.renewals += 1
        self.before()
        states = super().renew(leases, ttl_ms)
        self.after()
        return states

    def holder_is(self, session_id: SessionId, token: LeaseToken | None) -> bool:
        scope = fence_scope(session_id)
        if token is None:
            return not self.held([scope])
        return super().renew({scope: token}, TTL_MS) == {scope: LeaseState.HELD}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def leases(clock: FakeClock) -> Leases:
    return Leases(clock)


@pytest.fixture
def worker(clock: FakeClock) -> Worker:
    return Worker(WorkerId("w"), clock)


@pytest.fixture
def keeper(worker: Worker, leases: Leases) -> LeaseKeeper:
    return LeaseKeeper(worker, leases, TTL_MS)


@pytest.fixture
def turn(worker: Worker, leases: Leases) -> Iterator[Engagement]:
    """A turn that runs and has its lease."""
    with worker.engage(ONE, OURS) as engagement:
        assert engagement is not None
        assert leases.acquire(engagement.scope, OURS, TTL_MS)
        engagement.turn_id = TurnId("t")
        yield engagement


def test_a_lease_lives_as_long_as_it_is_kept(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement, clock: FakeClock
) -> None:
    for _ in range(6):
        clock.advance(2)
        keeper.keep()
    assert not leases.acquire(turn.scope, THEIRS, TTL_MS)
    clock.advance(TTL_MS / 1000)
    assert leases.acquire(turn.scope, THEIRS, TTL_MS)


def test_all_leases_are_renewed_in_one_round_trip_and_none_if_there_is_none(
    keeper: LeaseKeeper, leases: Leases, worker: Worker, turn: Engagement
) -> None:
    with worker.engage(TWO, OURS) as other:
        assert other is not None
        other.turn_id = TurnId("u")
        keeper.keep()
    assert leases.renewals == 1
    worker.dismiss(turn)
    keeper.keep()
    assert leases.renewals == 1


def test_a_lease_that_redis_lost_is_asserted_again(keeper: LeaseKeeper, leases: Leases, turn: Engagement) -> None:
    leases.release(turn.scope, OURS)
    keeper.keep()
    assert leases.holder_is(ONE, OURS)
    assert turn.interrupt.reason is None


def test_a_foreign_lease_stops_no_turn_and_is_left_where_it_is(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement
) -> None:
    """Whoever has it could not raise the fence while this worker lives. SQL says when a turn is lost."""
    leases.release(turn.scope, OURS)
    leases.acquire(turn.scope, THEIRS, TTL_MS)
    keeper.keep()
    assert leases.holder_is(ONE, THEIRS)
    assert turn.interrupt.reason is None


def test_an_unreachable_redis_stops_no_turn(keeper: LeaseKeeper, leases: Leases, turn: Engagement) -> None:
    def unreachable() -> None:
        raise LeaseStoreUnavailable("Redis cannot be reached")

    leases.before = unreachable
    keeper.keep()
    assert turn.interrupt.reason is None


@pytest.mark.parametrize("why", ["not opened yet", "leaving"])
def test_the_lease_of_a_session_without_a_turn_is_not_renewed(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement, why: str
) -> None:
    if why == "leaving":
        turn.leaving = True
    else:
        turn.turn_id = None
    keeper.keep()
    assert leases.renewals == 0


def test_a_lease_let_go_of_during_a_renewal_does_not_come_back(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement
) -> None:
    def let_go() -> None:
        turn.leaving = True
        leases.release(turn.scope, OURS)

    leases.before = let_go
    keeper.keep()
    assert leases.holder_is(ONE, None)


def test_a_lease_let_go_of_by_a_later_turn_during_a_renewal_does_not_come_back(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement, worker: Worker
) -> None:
    """The keeper held on to the turn that it had found. That one was over, another had followed and let go of the
    lease; so the renewal asserted a lease that nobody was behind, and the session stood still until it expired."""

    def goes_on_and_lets_go() -> None:
        following = worker.next_turn(turn)
        assert following is not None
        following.leaving = True
        leases.release(turn.scope, OURS)

    leases.before = goes_on_and_lets_go
    keeper.keep()
    assert leases.holder_is(ONE, None)


def test_a_lease_that_redis_lost_under_a_later_turn_stays_asserted(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement, worker: Worker
) -> None:
    def goes_on() -> None:
        worker.next_turn(turn)
        leases.release(turn.scope, OURS)

    leases.before = goes_on
    keeper.keep()
    assert leases.holder_is(ONE, OURS)


def test_a_lease_let_go_of_after_a_renewal_is_not_taken_from_its_next_holder(
    keeper: LeaseKeeper, leases: Leases, turn: Engagement
) -> None:
    def let_go() -> None:
        turn.leaving = True
        leases.release(turn.scope, OURS)
        leases.acquire(turn.scope, THEIRS, TTL_MS)

    leases.after = let_go
    keeper.keep()
    assert leases.holder_is(ONE, THEIRS)
