"""A worker with its threads: it shows that it lives, keeps its leases, hears of cancels, ticks, and signs off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lash_tasks.domain.ids import WorkerId, fence_scope
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import StoreUnavailable
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.maintenance import SWEEP_AFTER_MS
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.protocols import Pruning, WorkerRecord
from lash_tasks.wiring import WorkerParts
from tests.services import wait_until
from tests.turns.models import Model
from tests.turns.stage import AGENT, SESSION, Stage

TTL = 0.6
THREADS = {"lash-keeper", "lash-beat", "lash-ticker", "lash-pruner"}


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    with Stage(settings=settings.model_copy(update={"lease_ttl": TTL}), shared=open_memory_stores()) as stage:
        yield stage


@contextmanager
def running(stage: Stage, *, tick: bool = False) -> Iterator[WorkerParts]:
    with stage.worker() as parts:
        parts.running.start(tick=tick)
        try:
            yield parts
        finally:
            parts.running.stop()


def workers(stage: Stage) -> list[WorkerRecord]:
    with stage.reading() as stores:
        return stores.fleet.workers()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & THREADS


def test_it_is_listed_while_it_runs_and_leaves_no_thread_behind(stage: Stage) -> None:
    with stage.worker() as parts:
        assert (workers(stage), threads()) == ([], set())
        parts.running.start(tick=True)
        (record,) = workers(stage)
        assert (record.worker, record.live) == (parts.running.worker.id, True)
        with stage.reading() as stores:
            assert [snapshot.name for snapshot in stores.fleet.agents()] == [AGENT]
        assert threads() == THREADS
        wait_until(lambda: workers(stage)[0].seen_at_ms > record.seen_at_ms, 20, "a second sign of life")
        parts.running.stop()
        assert (workers(stage), threads()) == ([], set())
        parts.running.stop()
        assert parts.running.sessions.run(SESSION) is RunVerdict.YIELDED


def test_it_ticks_by_itself_only_where_it_serves_the_maintenance_queue(stage: Stage) -> None:
    with stage.worker() as parts:
        parts.running.start()
        assert threads() == THREADS - {"lash-ticker", "lash-pruner"}
        parts.running.stop()


def test_what_it_still_holds_when_it_stops_is_free_for_others(stage: Stage) -> None:
    taken: list[object] = []

    def stops(call: ModelCall, interrupt: Interrupt) -> None:
        if not taken:
            taken.append("")
            worker[0].running.stop()
            stage.shared = open_memory_stores()
            taken.append(stage.run())

    worker: list[WorkerParts] = []
    stage.model = Model(before=stops)
    stage.send("hello")
    with running(stage) as parts:
        worker.append(parts)
        assert parts.running.sessions.run(SESSION) is RunVerdict.FENCED
    assert taken == ["", RunVerdict.COMMITTED]
    assert stage.last().attempt == 1


def test_a_turn_that_lasts_longer_than_the_ttl_keeps_its_lease_and_its_holder(stage: Stage) -> None:
    seen: list[object] = []

    def long(call: ModelCall, interrupt: Interrupt) -> None:
        if not seen:
            assert stage.shared is not None
            seen.append(interrupt.wait(2 * TTL))
            seen.append(stage.shared.leases.held([fence_scope(SESSION)]))
            stage.shared = open_memory_stores()
            seen.append(stage.run())

    stage.model = Model(before=long)
    stage.send("hello")
    with running(stage) as parts:
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert seen == [False, {fence_scope(SESSION)}, RunVerdict.BUSY]


def test_a_cancel_reaches_the_turn_within_a_beat(stage: Stage) -> None:
    def cancelled(call: ModelCall, interrupt: Interrupt) -> None:
        stage.cancel()
        assert interrupt.wait(20)

    stage.model = Model(before=cancelled)
    stage.send("hello")
    with running(stage) as parts:
        parts.running.sessions.run(SESSION)
    assert stage.last().outcome == stopped(StopKind.CANCELLED)


def test_its_ticker_rings_for_what_nobody_rang_for(stage: Stage) -> None:
    stage.send("hello")
    del stage.rings.sessions[:]
    with running(stage, tick=True):
        wait_until(lambda: stage.rings.sessions == [SESSION], SWEEP_AFTER_MS / 1000 + 20, "the sweep")


def test_pruning_that_takes_long_keeps_no_sweep_waiting(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def long(pruning: Pruning, limit: int) -> int:
        began.set()
        return int(not goes_on.wait(30))

    with stage.worker() as parts:
        monkeypatch.setattr(parts.running.services.work, "prune", long)
        parts.running.start(tick=True)
        assert began.wait(20)
        stage.send("hello")
        del stage.rings.sessions[:]
        wait_until(lambda: stage.rings.sessions == [SESSION], SWEEP_AFTER_MS / 1000 + 20, "the sweep")
        goes_on.set()
        parts.running.stop()


def test_it_stops_also_without_a_database_to_sign_off_from(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(worker: WorkerId, *, crashed: bool = False) -> None:
        raise StoreUnavailable("away")

    with stage.worker() as parts:
        parts.running.start()
        monkeypatch.setattr(parts.stores.fleet, "leave", away)
        parts.running.stop()
    assert "the worker could not sign off; its row will age" in caplog.text
    assert threads() == set()
