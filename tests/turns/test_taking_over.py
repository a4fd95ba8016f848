"""Who may drive a turn: one live worker, until it dies, is stuck or lets go; whoever is late writes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lash_tasks import TurnContext, tool
from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.ids import LeaseToken, fence_scope
from lash_tasks.errors import ErrorCode
from lash_tasks.ports import Interrupt, InterruptReason, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.keeper import LeaseKeeper
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.memory.leases import MemoryLeases
from lash_tasks.stores.protocols import CommitRefused, Committed, NotOpened, OpenedTurn, OpenRequest, TurnCommit
from lash_tasks.stores.sql import tables
from lash_tasks.wiring import WorkerParts
from tests.turns.doubles import LeaseOutage, LiveRecorder, TurnsBetween
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Death, SimulatedDeath, Stage, agent

TTL = 6.0
THEIRS = LeaseToken("theirs")
ANSWERED = "You said: hello"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stage(settings: Settings, clock: FakeClock) -> Iterator[Stage]:
    """A stage where time stands still for workers and database alike."""
    with Stage(settings=settings.model_copy(update={"lease_ttl": TTL}), clock=clock, now_ms=clock.now_ms) as stage:
        yield stage


def during(stage: Stage, happens: Callable[[Interrupt], object]) -> Model:
    """Let something happen inside the first model call, while its worker is in the middle of the turn."""

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            happens(interrupt)

    stage.model = model = Model(before=before)
    return model


def run(parts: WorkerParts) -> RunVerdict:
    return parts.running.sessions.run(SESSION)


def fence(stage: Stage) -> int:
    (row,) = stage.rows(tables.fences)
    number: int = row["fence"]
    return number


def assert_answered_once(stage: Stage, model: Model, calls: int) -> None:
    assert [(turn.ok, turn.text) for turn in stage.results()] == [(True, ANSWERED)]
    assert [message["role"] for message in stage.transcript()] == ["user", "assistant"]
    assert model.asked.total() == calls
    stage.assert_usable()


# ---------------------------------------------------------------- while the holder lives


def test_a_second_worker_with_an_empty_lease_store_cannot_open_the_turn_of_a_live_one(stage: Stage) -> None:
    """Redis was flushed: the lease is gone, and SQL still says who lives."""
    seen: list[object] = []
    model = during(stage, lambda _: seen.extend([fence(stage), stage.run(), fence(stage)]))
    stage.send("hello")
    with stage.worker() as parts:
        stage.beat(parts)
        assert run(parts) is RunVerdict.COMMITTED
    before, verdict, after = seen
    assert (verdict, before) == (RunVerdict.BUSY, after)
    assert_answered_once(stage, model, 1)


def test_a_second_worker_that_sees_the_lease_does_not_even_ask_the_database(stage: Stage, clock: FakeClock) -> None:
    class Unasked(TurnsBetween):
        def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
            raise AssertionError("asked")

    def unasked(stores: Stores) -> Stores:
        return replace(stores, turns=Unasked(stores.turns))

    seen: list[object] = []
    stage.shared = open_memory_stores(clock=clock)
    model = during(stage, lambda _: seen.append(stage.run(wrap=unasked)))
    stage.send("hello")
    assert stage.run() is RunVerdict.COMMITTED
    assert seen == [RunVerdict.BUSY]
    assert_answered_once(stage, model, 1)


def test_a_second_thread_of_the_same_worker_finds_the_session_busy(stage: Stage) -> None:
    seen: list[object] = []
    worker: list[WorkerParts] = []
    model = during(stage, lambda _: seen.append(run(worker[0])))
    stage.send("hello")
    with stage.worker() as parts:
        worker.append(parts)
        assert run(parts) is RunVerdict.COMMITTED
    assert seen == [RunVerdict.BUSY]
    assert_answered_once(stage, model, 1)


def test_a_beat_while_a_turn_is_being_opened_does_not_take_it_for_forgotten(stage: Stage) -> None:
    class BeatsMeanwhile(TurnsBetween):
        def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
            opened = super().open(request)
            for _ in range(3):
                stage.beat(worker[0])
            return opened

    worker: list[WorkerParts] = []
    holders: list[object] = []
    during(stage, lambda _: holders.append(stage.turns()[0].holder))
    stage.send("hello")
    with stage.worker(wrap=lambda stores: replace(stores, turns=BeatsMeanwhile(stores.turns))) as parts:
        worker.append(parts)
        assert run(parts) is RunVerdict.COMMITTED
        assert holders == [parts.running.worker.id]


# ---------------------------------------------------------------- when the holder is gone


def test_a_dead_holder_is_replaced_when_it_was_not_seen_for_the_ttl(stage: Stage, clock: FakeClock) -> None:
    stage.send("hello")
    with stage.worker(Death(CrashPoint.AFTER_OPEN)) as parts:
        stage.beat(parts)
        run(parts)
    clock.advance(TTL - 0.1)
    assert stage.run() is RunVerdict.BUSY
    clock.advance(0.2)
    assert stage.run() is RunVerdict.COMMITTED
    assert stage.last().attempt == 2


@pytest.mark.shows("L12")
def test_a_worker_that_wakes_after_a_take_over_writes_nothing(stage: Stage, clock: FakeClock) -> None:
    """The zombie: stopped inside a model call for longer than the TTL, it comes back with an answer."""
    left: list[object] = []

    def stopped(_interrupt: Interrupt) -> None:
        clock.advance(TTL + 1)
        stage.run_all()
        left.extend([stage.row_counts(), stage.transcript()])

    model = during(stage, stopped)
    stage.send("hello")
    with stage.worker() as parts:
        stage.beat(parts)
        assert run(parts) is RunVerdict.FENCED
    assert left == [stage.row_counts(), stage.transcript()]
    assert_answered_once(stage, model, 2)


def test_a_worker_that_wakes_before_its_commit_is_fenced_as_well(stage: Stage, clock: FakeClock) -> None:
    def stopped(point: CrashPoint) -> None:
        if point is CrashPoint.BEFORE_COMMIT:
            clock.advance(TTL + 1)
            assert stage.run() is RunVerdict.COMMITTED

    model = during(stage, lambda _: None)
    stage.send("hello")
    with stage.worker(stopped) as parts:
        stage.beat(parts)
        # Its own commit finds the turn committed, with the same content: that is as good as its own.
        assert run(parts) is RunVerdict.COMMITTED
    assert_answered_once(stage, model, 1)


@pytest.mark.shows("L13")
def test_a_worker_that_wakes_while_its_successor_still_runs_is_fenced_at_its_commit(
    stage: Stage, clock: FakeClock
) -> None:
    def stopped(point: CrashPoint) -> None:
        if point is CrashPoint.BEFORE_COMMIT:
            clock.advance(TTL + 1)
            assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None

    model = during(stage, lambda _: None)
    stage.send("hello")
    with stage.worker(stopped) as parts:
        stage.beat(parts)
        assert run(parts) is RunVerdict.FENCED
    assert stage.results() == []
    stage.run_all()
    assert_answered_once(stage, model, 1)


@pytest.mark.shows("L16")
def test_a_beat_tells_a_worker_that_its_turn_is_lost_and_interrupts_it(stage: Stage, clock: FakeClock) -> None:
    worker: list[WorkerParts] = []
    reasons: list[object] = []

    def taken(interrupt: Interrupt) -> None:
        clock.advance(TTL + 1)
        assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
        reasons.append(interrupt.reason)
        stage.beat(worker[0])
        reasons.append(interrupt.reason)

    model = during(stage, taken)
    stage.send("hello")
    with stage.worker() as parts:
        worker.append(parts)
        stage.beat(parts)
        assert run(parts) is RunVerdict.FENCED
    assert reasons == [None, InterruptReason.LOST]
    assert stage.rows(tables.effects) == []
    stage.run_all()
    assert_answered_once(stage, model, 2)


@pytest.mark.shows("T6")
def test_a_turn_that_was_ended_otherwise_meanwhile_is_not_announced(stage: Stage) -> None:
    class EndedBefore(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            assert isinstance(self.turns.commit(replace(commit, stamp="another")), Committed)
            return self.turns.commit(commit)

    live = LiveRecorder()
    stage.send("hello")
    verdict = stage.run(wrap=lambda stores: replace(stores, live=live, turns=EndedBefore(stores.turns)))
    assert verdict is RunVerdict.FENCED
    assert ActivityType.COMMITTED not in [event.type for event in live.events]
    stage.assert_usable()


@pytest.mark.shows("L13")
def test_a_worker_that_lost_its_turn_before_the_first_model_call_makes_none(stage: Stage, clock: FakeClock) -> None:
    """Instructions that are a function are the first thing that a turn records."""

    def render(turn: TurnContext) -> str:
        if not deaths:
            deaths.append(TTL)
            clock.advance(TTL + 1)
            assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
        return "Answer."

    deaths: list[float] = []
    stage.agents = [agent(instructions=render)]
    stage.model = model = Model()
    stage.send("hello")
    with stage.worker() as parts:
        stage.beat(parts)
        assert run(parts) is RunVerdict.FENCED
    assert model.asked.total() == 0
    stage.run_all()
    assert_answered_once(stage, model, 1)


def test_a_deleted_session_stops_the_turn_that_runs_in_it(stage: Stage) -> None:
    def delete(_interrupt: Interrupt) -> None:
        with stage.reading() as stores:
            stores.sessions.delete(SESSION)

    during(stage, delete)
    stage.send("hello")
    assert stage.run() is RunVerdict.FENCED
    assert set(stage.row_counts().values()) <= {0, 1}
    assert stage.row_counts()["lash_nodes"] == 0


# ---------------------------------------------------------------- on the way out


def test_a_doorbell_turned_away_by_one_who_is_turned_away_himself_is_rung_again(stage: Stage) -> None:
    """A thread of this process had asked for a lease that another worker held, and had not heard the answer yet. A
    second doorbell was turned away here for the first one's sake, and left no mark at the lease. Meanwhile the holder
    let go and found nothing: the second doorbell's input waited for the sweep."""
    worker: list[WorkerParts] = []

    class Answered(MemoryLeases):
        def acquire(self, scope: str, token: LeaseToken, ttl_ms: int) -> bool:
            answer = super().acquire(scope, token, ttl_ms)
            if not answer:
                self.release(scope, THEIRS)
                stage.send("hello")
                assert run(worker[0]) is RunVerdict.BUSY
            return answer

    leases = Answered(stage.clock)
    assert leases.acquire(fence_scope(SESSION), THEIRS, 6000)
    with stage.worker(wrap=lambda stores: replace(stores, leases=leases)) as parts:
        worker.append(parts)
        stage.rings.sessions.clear()
        assert run(parts) is RunVerdict.BUSY
        assert stage.rings.sessions == [SESSION, SESSION]  # that of the sending, and that of who was turned away
        assert run(parts) is RunVerdict.COMMITTED


# ---------------------------------------------------------------- when the holder is stuck


def test_an_effect_past_its_deadline_is_given_up_counted_and_taken_by_another(stage: Stage, clock: FakeClock) -> None:
    worker: list[WorkerParts] = []
    seen: list[object] = []

    def hangs(interrupt: Interrupt) -> None:
        clock.advance(60 + 29)
        stage.beat(worker[0])
        seen.append(stage.run())
        clock.advance(2)
        stage.beat(worker[0])
        seen.extend([interrupt.reason, stage.run()])

    model = during(stage, hangs)
    stage.agents = [agent(max_turn_seconds=60)]
    stage.send("hello")
    with stage.worker() as parts:
        worker.append(parts)
        stage.beat(parts)
        assert run(parts) is RunVerdict.FENCED
        assert parts.running.worker.engagements() == []
    assert seen == [RunVerdict.BUSY, InterruptReason.LOST, RunVerdict.COMMITTED]
    assert stage.last().attempt == 2
    assert_answered_once(stage, model, 2)


def test_instructions_that_hang_are_stuck_as_well(stage: Stage, clock: FakeClock) -> None:
    worker: list[WorkerParts] = []
    verdicts: list[object] = []

    def render(turn: TurnContext) -> str:
        if not verdicts:
            verdicts.append("hangs")
            clock.advance(600 + 31)
            stage.beat(worker[0])
            verdicts.append(stage.run())
        return "Answer."

    stage.agents = [agent(instructions=render)]
    stage.send("hello")
    with stage.worker() as parts:
        worker.append(parts)
        stage.beat(parts)
        assert run(parts) is RunVerdict.FENCED
    assert verdicts == ["hangs", RunVerdict.COMMITTED]
    stage.assert_usable()


def test_a_round_that_takes_its_time_because_no_thread_is_free_is_not_stuck(stage: Stage, clock: FakeClock) -> None:
    """Each of the calls ends by its own timeout; together they last longer than any one of them may."""
    released = threading.Event()
    began = clock.monotonic()

    @tool(timeout=20)
    def sleep() -> str:
        """Take long."""
        released.wait(20)
        return "rested"

    def reached(point: CrashPoint) -> None:
        if point is CrashPoint.AFTER_PERFORM:
            stage.beat(worker[0])

    worker: list[WorkerParts] = []
    stage.agents = [agent(sleep)]
    stage.model = Model(script({"go": [calls(*[("sleep", "")] * 5), says("done")]}))
    stage.send("go")
    try:
        with stage.worker(reached) as parts:
            worker.append(parts)
            assert run(parts) is RunVerdict.COMMITTED
    finally:
        released.set()
    assert clock.monotonic() - began >= 100
    assert {call.outcome.failure and call.outcome.failure.code for call in stage.last().tool_calls} == {
        ErrorCode.TOOL_TIMEOUT
    }


# ---------------------------------------------------------------- when the holder forgot


def test_a_turn_that_its_worker_forgot_is_given_up_at_the_second_beat_and_not_counted(stage: Stage) -> None:
    """A thread died of something that nobody catches; its process lives on and shows it."""
    stage.send("hello")
    with stage.worker(Death(CrashPoint.AFTER_OPEN)) as parts:
        stage.beat(parts)
        with pytest.raises(SimulatedDeath):
            run(parts)
        stage.beat(parts)
        assert stage.run() is RunVerdict.BUSY
        stage.beat(parts)
        assert stage.run() is RunVerdict.COMMITTED
    assert stage.last().attempt == 1


# ---------------------------------------------------------------- without Redis


def test_without_leases_no_turn_starts_and_nothing_is_written(stage: Stage) -> None:
    stage.send("hello")
    before = stage.row_counts()
    leases = LeaseOutage(stage.clock)
    leases.down = True
    assert stage.run(wrap=leases.wrap) is RunVerdict.NO_LEASES
    assert stage.row_counts() == before
    leases.down = False
    assert stage.run(wrap=leases.wrap) is RunVerdict.COMMITTED


def test_a_running_turn_goes_on_while_redis_is_away(stage: Stage, clock: FakeClock) -> None:
    def lost(_interrupt: Interrupt) -> None:
        leases.down = True
        for _ in range(5):
            clock.advance(TTL / 3)
            stage.beat(worker[0])
            keeper[0].keep()

    worker: list[WorkerParts] = []
    keeper: list[LeaseKeeper] = []
    leases = LeaseOutage(stage.clock)
    model = during(stage, lost)
    stage.send("hello")
    stage.send("behind")
    with stage.worker(wrap=leases.wrap) as parts:
        worker.append(parts)
        keeper.append(LeaseKeeper(parts.running.worker, parts.stores.leases, round(TTL * 1000)))
        stage.beat(parts)
        rings = len(stage.rings.sessions)
        assert run(parts) is RunVerdict.COMMITTED
        # Its lease may still stand, so a ring would only be turned away: the sweep comes when it has expired.
        assert len(stage.rings.sessions) == rings
    assert model.asked.total() == 1
    assert stage.last().text == ANSWERED


# ---------------------------------------------------------------- after a turn


def test_a_worker_without_the_agents_code_leaves_its_work_alone_and_rings_for_nobody(stage: Stage) -> None:
    stage.send("hello")
    before = stage.row_counts()
    del stage.rings.sessions[:]
    usual, stage.agents = stage.agents, [agent(name="other")]
    assert stage.run() is RunVerdict.NOTHING
    assert (stage.row_counts(), stage.rings.sessions) == (before, [])
    stage.agents = usual
    assert stage.run() is RunVerdict.COMMITTED


def test_a_draining_worker_hands_each_session_on_once(stage: Stage) -> None:
    """Rung again by its own queue, it would hand the session on for as long as it drains."""
    stage.send("hello")
    del stage.rings.sessions[:]
    with stage.worker() as parts:
        parts.running.worker.begin_drain()
        assert [run(parts) for _ in range(3)] == [RunVerdict.YIELDED] * 3
    assert stage.rings.sessions == [SESSION]
    assert stage.run() is RunVerdict.COMMITTED
