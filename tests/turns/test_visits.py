"""One hold of a session's lease: turn after turn for a while, and nobody who was turned away is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.codec import UNREADABLE
from lash_tasks.domain.ids import LeaseToken, fence_scope
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS
from lash_tasks.errors import CommitConflict, NotFound, StoreError, StoreUnavailable
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.runtime.session_runner import STAY_SECONDS, RunVerdict
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.protocols import CommitRefused, Committed, Released, TurnCommit
from tests.turns.doubles import TurnsBetween
from tests.turns.stage import AGENT, SESSION, Stage

THEIRS = LeaseToken("another worker")


def at(point: CrashPoint, act: Callable[[], object]) -> Callable[[CrashPoint], None]:
    """Do something whenever a turn passes `point`."""

    def reached(passed: CrashPoint) -> None:
        if passed is point:
            act()

    return reached


def send(stage: Stage, *texts: str) -> None:
    """Send without a sender's rings, so that only the worker's are seen."""
    for text in texts:
        stage.send(text)
    stage.rings.sessions.clear()


@pytest.mark.shows("K11")
def test_a_doorbell_for_nothing_leaves_the_lease_free(stage: Stage) -> None:
    with stage.worker() as parts:
        assert parts.running.sessions.run(SESSION) is RunVerdict.NOTHING
        assert parts.stores.leases.acquire(fence_scope(SESSION), THEIRS, 1000)
    assert stage.turns() == []


@pytest.mark.shows("K10")
def test_doubled_and_late_doorbells_of_many_workers_give_each_input_one_turn(stage: Stage) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    send(stage, *(f"{number}" for number in range(5)))
    with stage.worker() as one, stage.worker() as other, ThreadPoolExecutor(20) as threads:
        together = threading.Barrier(20)

        def answer(number: int) -> RunVerdict:
            together.wait(20)
            return (one, other)[number % 2].running.sessions.run(SESSION)

        list(threads.map(answer, range(20)))
    stage.run_all()
    assert [turn.text for turn in stage.results()] == [f"You said: {number}" for number in range(5)]


def test_what_is_waiting_is_answered_in_one_visit(stage: Stage) -> None:
    send(stage, "one", "two", "three")
    with stage.worker() as parts:
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert len(stage.results()) == 3
    assert stage.rings.sessions == []


def test_a_visit_that_has_lasted_long_enough_rings_for_the_rest(stage: Stage) -> None:
    stage.clock = clock = FakeClock()
    send(stage, "one", "two", "three")
    with stage.worker(reached=at(CrashPoint.AFTER_COMMIT, lambda: clock.advance(STAY_SECONDS / 2))) as parts:
        parts.running.sessions.run(SESSION)
    assert len(stage.results()) == 2
    assert stage.rings.sessions == [SESSION]


def test_a_draining_worker_stays_for_nothing_more(stage: Stage) -> None:
    send(stage, "one", "two")

    def leave() -> None:
        parts.running.worker.begin_drain()

    with stage.worker(reached=at(CrashPoint.AFTER_COMMIT, leave)) as parts:
        parts.running.sessions.run(SESSION)
    assert len(stage.results()) == 1
    assert stage.rings.sessions == [SESSION]


@pytest.mark.shows("T15")
def test_input_that_comes_after_the_commit_is_rung_for_if_its_doorbell_was_turned_away(stage: Stage) -> None:
    send(stage, "one")
    stage.shared = shared = open_memory_stores()

    def late() -> None:
        if len(stage.results()) == 1:
            send(stage, "two")
            assert not shared.leases.acquire(fence_scope(SESSION), THEIRS, 1000)

    with stage.worker(reached=at(CrashPoint.AFTER_ANNOUNCE, late)) as parts:
        parts.running.sessions.run(SESSION)
    assert stage.rings.sessions == [SESSION]


def test_a_doorbell_that_finds_its_session_busy_in_the_same_process_counts_as_well(stage: Stage) -> None:
    send(stage, "one")

    def late() -> None:
        send(stage, "two")
        assert parts.running.sessions.run(SESSION) is RunVerdict.BUSY

    with stage.worker(reached=at(CrashPoint.AFTER_ANNOUNCE, late)) as parts:
        parts.running.sessions.run(SESSION)
    assert stage.rings.sessions == [SESSION]


def test_a_lease_that_was_lost_makes_the_worker_look(stage: Stage) -> None:
    """After a loss of Redis somebody else may have had the lease, so nobody knows who was turned away."""
    send(stage, "one")
    stage.shared = shared = open_memory_stores()

    def flushed() -> None:
        send(stage, "two")
        token = next(iter(parts.running.worker.engagements())).token
        assert shared.leases.release(fence_scope(SESSION), token) is Released.QUIET

    with stage.worker(reached=at(CrashPoint.AFTER_ANNOUNCE, flushed)) as parts:
        parts.running.sessions.run(SESSION)
    assert stage.rings.sessions == [SESSION]


@pytest.mark.shows("L11")
def test_input_waits_while_the_lease_is_held_and_runs_by_the_same_call_after_its_release(stage: Stage) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    scope = fence_scope(SESSION)
    assert stage.shared.leases.acquire(scope, THEIRS, 6000)
    batch_id = stage.send("hello")

    assert stage.run() is RunVerdict.BUSY
    assert stage.states() == {batch_id: BatchState.READY}

    stage.shared.leases.release(scope, THEIRS)
    assert stage.run() is RunVerdict.COMMITTED


def refuses(refused: CommitRefused) -> Callable[[Stores], Stores]:
    class Refuses(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            return refused

    return lambda stores: replace(stores, turns=Refuses(stores.turns))


@pytest.mark.shows("L18")
@pytest.mark.raises_code("store_commit_failed")
@pytest.mark.parametrize("refused", [refused for refused in CommitRefused if refused.unfit])
def test_a_commit_that_does_not_fit_says_why_and_leaves_the_lease_free(stage: Stage, refused: CommitRefused) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    stage.send("hello")
    with pytest.raises(CommitConflict) as conflict:
        stage.run(wrap=refuses(refused))

    assert (conflict.value.code, conflict.value.reason) == ("store_commit_failed", refused.value)
    assert not stage.shared.leases.held([fence_scope(SESSION)])
    assert stage.run() is RunVerdict.COMMITTED


@pytest.mark.shows("L18")
@pytest.mark.parametrize("refused", [CommitRefused.FENCED, CommitRefused.TURN_CONFLICT])
def test_a_commit_of_another_workers_turn_leaves_the_lease_free(stage: Stage, refused: CommitRefused) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    stage.send("hello")
    assert stage.run(wrap=refuses(refused)) is RunVerdict.FENCED

    assert not stage.shared.leases.held([fence_scope(SESSION)])


class Broken(Exception):
    """Of no kind that the runtime knows."""


def breaks(verb: str, error: Exception) -> Callable[[Stores], Stores]:
    """Let a verb of the turn store raise."""

    def broken(_request: object) -> None:
        raise error

    def wrap(stores: Stores) -> Stores:
        turns = TurnsBetween(stores.turns)
        setattr(turns, verb, broken)
        return replace(stores, turns=turns)

    return wrap


@pytest.mark.shows("L18")
@pytest.mark.parametrize("verb", ["open", "checkpoint", "commit"])
@pytest.mark.parametrize(
    "error",
    [Broken(), ValueError("no"), NotFound("node", "x"), StoreError("no")],
    ids=lambda error: type(error).__name__,
)
def test_a_turn_that_raises_leaves_the_lease_free(stage: Stage, verb: str, error: Exception) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    stage.send("hello")
    stage.inject("and", exclusive=False, merge_key="steer")
    with pytest.raises(type(error)) as raised:
        stage.run(wrap=breaks(verb, error))

    assert raised.value is error
    assert not stage.shared.leases.held([fence_scope(SESSION)])
    assert stage.run() is RunVerdict.COMMITTED


@pytest.mark.shows("L18")
def test_a_command_that_raises_leaves_the_lease_free_at_every_attempt_and_the_next_run_opens(stage: Stage) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    values = {"session_id": SESSION, "kind": "reset_session", "idempotency_key": "k", "agent": AGENT}
    with stage.ingress() as ingress:
        ingress.command(CommandRequest.parse(values))
    stage.execute("UPDATE lash_batches SET payload = :payload", payload=b"{}")
    stage.send("behind")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        with pytest.raises(UNREADABLE):
            stage.run()
        assert not stage.shared.leases.held([fence_scope(SESSION)]), attempt
        assert [turn.attempt for turn in stage.turns()] == [attempt]
    assert stage.run() is RunVerdict.COMMITTED
    assert stage.last().text == "You said: behind"


def test_an_outage_of_the_database_in_a_turn_leaves_the_lease_free(stage: Stage) -> None:
    stage.shared = open_memory_stores(clock=stage.clock)
    stage.send("hello")
    with pytest.raises(StoreUnavailable):
        stage.run(wrap=breaks("open", StoreUnavailable("gone")))

    assert not stage.shared.leases.held([fence_scope(SESSION)])
    assert stage.run() is RunVerdict.COMMITTED
