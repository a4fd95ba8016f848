"""The passes find what nobody rang for, ring for it now and then, and leave alone what somebody is at work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import LeaseToken, fence_scope
from lash_tasks.domain.queue import BatchState
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.maintenance import (
    DUE_WITHIN_MS,
    PRUNE_FOR_SECONDS,
    PRUNE_STEP,
    RESCUE_AGAIN_MS,
    RING_AGAIN_MS,
    SWEEP_AFTER_MS,
    Maintenance,
)
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.protocols import Pruning
from lash_tasks.stores.sql import tables
from lash_tasks.wiring import WorkerParts
from tests.turns.doubles import LeaseOutage, WorkBetween
from tests.turns.stage import SESSION, Death, Stage, agent

TTL = 6.0
OTHER = "customer-8"
DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stage(settings: Settings, clock: FakeClock) -> Iterator[Stage]:
    settings = settings.model_copy(update={"lease_ttl": TTL, "key_retention_days": 7.0, "retention_days": 30.0})
    with Stage(settings=settings, clock=clock, now_ms=clock.now_ms, shared=open_memory_stores(clock=clock)) as stage:
        yield stage


@pytest.fixture
def passes(stage: Stage) -> Iterator[Maintenance]:
    with stage.worker() as parts:
        yield parts.running.maintenance


def sent(stage: Stage, *texts: str) -> None:
    for text in texts:
        stage.send(text)
    del stage.rings.sessions[:]


def begun(stage: Stage) -> None:
    """A turn whose worker died right after opening it."""
    sent(stage, "hello")
    with stage.worker(Death(CrashPoint.AFTER_OPEN)) as parts:
        stage.beat(parts)
        parts.running.sessions.run(SESSION)


# ---------------------------------------------------------------- rescue


def test_rescue_rings_for_a_turn_whose_worker_died_once_worker_and_lease_are_gone(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    begun(stage)
    assert passes.rescue() == 0, "the worker was seen a moment ago"
    clock.advance(TTL + 0.1)
    assert passes.rescue() == 1
    assert stage.rings.turns == [stage.turns()[0].turn_id]


def test_rescue_leaves_a_turn_alone_whose_lease_is_held(stage: Stage, passes: Maintenance, clock: FakeClock) -> None:
    begun(stage)
    clock.advance(TTL + 0.1)
    assert stage.shared is not None
    assert stage.shared.leases.acquire(fence_scope(SESSION), LeaseToken("taker"), 1000)
    assert passes.rescue() == 0
    clock.advance(1.1)
    assert passes.rescue() == 1


def test_rescue_rings_for_one_turn_again_only_after_a_while(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    begun(stage)
    clock.advance(TTL + 0.1)
    assert (passes.rescue(), passes.rescue()) == (1, 0)
    clock.advance(RESCUE_AGAIN_MS / 1000 + 0.1)
    assert passes.rescue() == 1


def test_a_turn_that_was_given_up_is_rescued_at_once(stage: Stage, passes: Maintenance) -> None:
    sent(stage, "hello")
    worker: list[WorkerParts] = []

    def drain(point: CrashPoint) -> None:
        if point is CrashPoint.AFTER_OPEN:
            worker[0].running.worker.begin_drain()

    with stage.worker(drain) as parts:
        worker.append(parts)
        stage.beat(parts)
        assert parts.running.sessions.run(SESSION) is RunVerdict.YIELDED
    assert passes.rescue() == 1


def test_no_pass_rings_for_agents_that_its_worker_has_no_code_for(stage: Stage, clock: FakeClock) -> None:
    begun(stage)
    stage.send("elsewhere", session_id=OTHER)
    clock.advance(TTL + SWEEP_AFTER_MS / 1000 + 0.1)
    stage.agents = [agent(name="other")]
    with stage.worker() as parts:
        assert (parts.running.maintenance.rescue(), parts.running.maintenance.sweep()) == (0, 0)


# ---------------------------------------------------------------- sweep


def test_the_sweep_rings_for_input_that_has_waited_and_only_now_and_then(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    sent(stage, "one", "two")
    stage.send("elsewhere", session_id=OTHER)
    del stage.rings.sessions[:]
    assert passes.sweep() == 0, "their doorbells may still be on their way"
    clock.advance(SWEEP_AFTER_MS / 1000 + 0.1)
    assert passes.sweep() == 2
    assert sorted(stage.rings.sessions) == [SESSION, OTHER]
    assert passes.sweep() == 0
    clock.advance(RING_AGAIN_MS / 1000 + 0.1)
    assert passes.sweep() == 2


def test_the_sweep_leaves_a_session_alone_that_somebody_is_at_work_on(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    """With a turn it is the rescue's; with a lease its holder looks again by itself."""
    begun(stage)
    stage.send("behind")
    clock.advance(SWEEP_AFTER_MS / 1000 + 0.1)
    assert passes.sweep() == 0
    stage.send("elsewhere", session_id=OTHER)
    clock.advance(SWEEP_AFTER_MS / 1000 + 0.1)
    assert stage.shared is not None
    stage.shared.leases.acquire(f"session:{OTHER}", LeaseToken("taker"), 60_000)
    assert passes.sweep() == 0


def test_without_redis_the_passes_ring_all_the_same(stage: Stage, clock: FakeClock) -> None:
    sent(stage, "hello")
    clock.advance(SWEEP_AFTER_MS / 1000 + 0.1)
    leases = LeaseOutage(clock)
    leases.down = True
    with stage.worker(wrap=leases.wrap) as parts:
        assert parts.running.maintenance.sweep() == 1


def test_what_was_swept_runs(stage: Stage, passes: Maintenance, clock: FakeClock) -> None:
    sent(stage, "hello")
    clock.advance(SWEEP_AFTER_MS / 1000 + 0.1)
    passes.sweep()
    stage.run()
    assert stage.last().text == "You said: hello"
    clock.advance(RING_AGAIN_MS / 1000 + 0.1)
    assert (passes.sweep(), passes.rescue(), passes.wake_due()) == (0, 0, 0)


# ---------------------------------------------------------------- wake_due


def test_delayed_input_is_rung_for_when_it_is_due(stage: Stage, passes: Maintenance, clock: FakeClock) -> None:
    stage.send("later", available_at_ms=clock.now_ms() + 10_000)
    assert stage.rings.sessions == []
    clock.advance(9.9)
    assert passes.wake_due() == 0
    clock.advance(0.2)
    assert (passes.wake_due(), passes.wake_due()) == (1, 0)
    assert stage.rings.sessions == [SESSION]
    clock.advance(DUE_WITHIN_MS / 1000 + RING_AGAIN_MS / 1000)
    assert (passes.wake_due(), passes.sweep()) == (0, 1), "what has been due for long is the sweep's"


@pytest.mark.shows("K9")
def test_a_delayed_input_runs_within_a_sweep_of_its_time_without_any_call_also_behind_another_one(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    """The second of the two becomes due while the passes keep still about the first."""
    for seconds in (2, 4):
        stage.send(f"after {seconds}", available_at_ms=clock.now_ms() + seconds * 1000)
    answered = []
    for _ in range(6):
        clock.advance(1)
        if passes.wake_due():
            stage.run()
        answered.append([turn.text for turn in stage.results()])
    first, second = "You said: after 2", "You said: after 4"
    assert answered == [[], [first], [first], [first, second], [first, second], [first, second]]


def test_input_that_merges_is_rung_for_when_it_has_been_quiet(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    for text in ("a", "b", "c"):
        stage.send(text, when="merge", merge_key="m", quiet_ms=2000)
        clock.advance(1.5)
        assert (passes.wake_due(), passes.sweep()) == (0, 0)
    assert stage.run() is RunVerdict.NOTHING
    clock.advance(0.5)
    assert (passes.wake_due(), passes.wake_due()) == (1, 0)
    stage.run()
    [turn] = stage.results()
    assert turn.text == "You said: c"
    assert len(stage.messages()) == 4


def test_input_that_keeps_coming_is_taken_after_ten_quiet_periods(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    rung = []
    for number in range(1, 26):
        stage.send(f"{number}", when="merge", merge_key="m", quiet_ms=1000)
        clock.advance(0.5)
        rung.append(passes.wake_due())
    assert rung == [0] * 19 + [1] + [0] * 5
    assert stage.rings.sessions == [SESSION]
    stage.run()
    assert stage.last().text == "You said: 25"


def test_while_input_waits_for_quiet_other_input_goes_before_it(stage: Stage, clock: FakeClock) -> None:
    stage.send("a", when="merge", merge_key="m", quiet_ms=2000)
    stage.send("now")
    stage.run()
    assert stage.last().text == "You said: now"
    assert stage.run() is RunVerdict.NOTHING
    clock.advance(2)
    stage.run()
    assert stage.last().text == "You said: a"


def test_input_that_was_not_delayed_is_not_woken(stage: Stage, passes: Maintenance, clock: FakeClock) -> None:
    sent(stage, "now")
    clock.advance(0.5)
    assert passes.wake_due() == 0


# ---------------------------------------------------------------- prune


def test_prune_removes_what_is_over_when_its_time_has_come_and_never_the_history(
    stage: Stage, passes: Maintenance, clock: FakeClock
) -> None:
    stage.answer("one", idempotency_key="k")
    clock.advance(6 * DAY)
    assert passes.prune() == 0
    clock.advance(1.1 * DAY)
    stage.answer("two")
    waiting = stage.send("waiting")
    assert passes.prune() == 1
    assert list(stage.states().values()) == [BatchState.CONSUMED, BatchState.READY]
    clock.advance(23 * DAY)
    assert passes.prune() == 2, "the other input, and the journal of the first turn"
    assert stage.states() == {waiting: BatchState.READY}
    assert len(stage.rows(tables.effects)) == 1
    assert [turn.text for turn in stage.results()] == ["You said: one", "You said: two"]
    assert len(stage.messages()) == 4
    stage.run_all()
    assert stage.last().text == "You said: waiting"


def test_without_a_retention_journals_are_kept(stage: Stage, clock: FakeClock) -> None:
    stage.settings = stage.settings.model_copy(update={"retention_days": None})
    stage.answer("one")
    clock.advance(400 * DAY)
    with stage.worker() as parts:
        assert parts.running.maintenance.prune() == 1
    assert len(stage.rows(tables.effects)) == 1


class Full(WorkBetween):
    """There is a step to prune for each number in `steps`, and each takes ten seconds."""

    def __init__(self, passes: Maintenance, clock: FakeClock, *steps: int) -> None:
        super().__init__(passes.work)
        self.steps = list(steps)
        self.clock = clock

    def prune(self, pruning: Pruning, limit: int = 1000) -> int:
        self.clock.advance(10)
        return self.steps.pop(0)


def test_prune_goes_on_until_a_step_is_not_full(passes: Maintenance, clock: FakeClock) -> None:
    full = Full(passes, clock, PRUNE_STEP, 3 * PRUNE_STEP, PRUNE_STEP - 1, 1)
    assert replace(passes, work=full).prune() == 5 * PRUNE_STEP - 1
    assert full.steps == [1]


def test_prune_leaves_the_rest_to_the_next_pass_after_its_time(passes: Maintenance, clock: FakeClock) -> None:
    full = Full(passes, clock, *[PRUNE_STEP] * 10)
    replace(passes, work=full).prune()
    assert len(full.steps) == 10 - PRUNE_FOR_SECONDS / 10


def test_prune_stops_when_the_worker_drains(passes: Maintenance, clock: FakeClock) -> None:
    full = Full(passes, clock, *[PRUNE_STEP] * 5)
    replace(passes, work=full, draining=lambda: len(full.steps) == 3).prune()
    assert len(full.steps) == 3


def test_a_pass_of_many_workers_at_once_rings_once(stage: Stage, clock: FakeClock) -> None:
    sent(stage, "hello")
    clock.advance(SWEEP_AFTER_MS / 1000 + 0.1)
    with stage.worker() as one, stage.worker() as two:
        rings = [parts.running.maintenance.sweep() for parts in (one, two)]
    assert rings == [1, 0]
    with stage.worker() as parts:
        alone = replace(parts.running.maintenance, slots=open_memory_stores(clock=clock).slots)
        assert alone.sweep() == 1, "the slots kept the second one from ringing, not the session"
