"""`Fleet`: which workers live, what they learn from a beat, and the agents they serve."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from lash_tasks.domain.agents import OnCrash, ToolSpec
from lash_tasks.domain.ids import SessionId, TurnId, WorkerId
from lash_tasks.errors import NotFound
from lash_tasks.stores.protocols import Beat, NotOpened, OpenedTurn, WorkerRecord
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.fleet import SqlFleet
from tests.conformance.arrange import ALICE, BOB, SESSION, WORKER_TTL_MS, Scene
from tests.conformance.inputs import OTHER_SESSION, agent


@pytest.fixture
def fleet(scene: Scene) -> SqlFleet:
    return SqlFleet(scene.database, worker_ttl_ms=WORKER_TTL_MS)


def record(worker: WorkerId = ALICE) -> WorkerRecord:
    return WorkerRecord(
        worker=worker,
        host="host-1",
        pid=4711,
        queues=("lash.turns", "lash.ingress"),
        version="0.1.0",
        started_at_ms=17,
        seen_at_ms=0,
        live=True,
    )


def driven(*turns: OpenedTurn) -> dict[tuple[SessionId, TurnId], int]:
    return {(turn.intent.session_id, turn.intent.turn_id): turn.fence for turn in turns}


def keys(*turns: OpenedTurn) -> frozenset[tuple[SessionId, TurnId]]:
    return frozenset(driven(*turns))


def holder(scene: Scene, session_id: SessionId = SESSION) -> str | None:
    [row] = [row for row in scene.rows(tables.turns) if row["session_id"] == session_id]
    found: str | None = row["holder"]
    return found


# ---------------------------------------------------------------- living


def test_a_beat_makes_a_worker_known_with_the_databases_time(scene: Scene, fleet: SqlFleet) -> None:
    assert fleet.beat(record(), {}) == Beat()
    assert fleet.workers() == [replace(record(), seen_at_ms=scene.clock.now_ms())]


def test_a_worker_lives_as_long_as_it_beats(scene: Scene, fleet: SqlFleet) -> None:
    fleet.beat(record(ALICE), {})
    fleet.beat(record(BOB), {})
    scene.clock.advance((WORKER_TTL_MS - 1) / 1000)
    fleet.beat(record(BOB), {})
    assert {worker.worker: worker.live for worker in fleet.workers()} == {ALICE: True, BOB: True}

    scene.clock.advance(0.001)
    assert {worker.worker: worker.live for worker in fleet.workers()} == {ALICE: False, BOB: True}

    fleet.beat(record(ALICE), {})
    assert all(worker.live for worker in fleet.workers())
    assert scene.count(tables.workers) == 2


def test_a_worker_lives_for_an_opening_exactly_as_long_as_here(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    turn = scene.open(ALICE)
    fleet.beat(record(ALICE), driven(turn))
    scene.clock.advance((WORKER_TTL_MS - 1) / 1000)
    assert fleet.workers()[0].live
    assert scene.try_open(BOB) is NotOpened.HOLDER_LIVES
    scene.clock.advance(0.001)
    assert not fleet.workers()[0].live
    assert scene.open(BOB).attempt == 2


def test_a_beat_tells_the_queues_that_are_served_now(fleet: SqlFleet) -> None:
    fleet.beat(record(), {})
    fleet.beat(replace(record(), queues=()), {})
    assert fleet.workers()[0].queues == ()


# ---------------------------------------------------------------- what a beat tells


def test_a_beat_without_news_changes_no_turn(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    turn = scene.open(ALICE)
    before = scene.rows(tables.turns)
    assert fleet.beat(record(ALICE), driven(turn)) == Beat()
    assert scene.rows(tables.turns) == before


def test_a_beat_brings_the_cancels_of_the_turns_it_drives(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    scene.send(session_id=OTHER_SESSION)
    here, there = scene.open(ALICE), scene.open(ALICE, session_id=OTHER_SESSION)
    assert scene.store.request_cancel(SESSION, here.intent.turn_id, "not needed")
    assert fleet.beat(record(ALICE), driven(here, there)) == Beat(cancels=keys(here))


def test_a_cancel_of_somebody_elses_turn_is_no_news(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    turn = scene.open(BOB)
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "not needed")
    assert fleet.beat(record(ALICE), {}) == Beat()


def test_a_turn_that_another_worker_has_taken_is_foreign(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    mine = scene.open(ALICE)
    theirs = scene.open(BOB)
    scene.store.request_cancel(SESSION, mine.intent.turn_id, "not needed")
    assert theirs.fence > mine.fence
    assert fleet.beat(record(ALICE), driven(mine)) == Beat(foreign=keys(mine))
    assert holder(scene) == BOB


def test_a_turn_that_this_worker_has_opened_anew_is_foreign_to_its_older_drive(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    older = scene.open(ALICE)
    newer = scene.open(ALICE)
    assert fleet.beat(record(ALICE), driven(older)) == Beat(foreign=keys(older))
    assert fleet.beat(record(ALICE), driven(newer)) == Beat()


def test_a_turn_that_is_over_or_gone_is_foreign(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    over = scene.open(ALICE)
    scene.committed(over)
    gone = (OTHER_SESSION, TurnId("queue:gone"))
    assert fleet.beat(record(ALICE), {**driven(over), gone: 1}) == Beat(foreign=keys(over) | {gone})


def test_turns_that_it_holds_and_does_not_drive_are_told_with_their_fences_and_left_alone(
    scene: Scene, fleet: SqlFleet
) -> None:
    scene.send()
    scene.send(session_id=OTHER_SESSION)
    driving, idle = scene.open(ALICE), scene.open(ALICE, session_id=OTHER_SESSION)
    before = scene.rows(tables.turns)
    told = (OTHER_SESSION, idle.intent.turn_id, idle.fence)
    assert fleet.beat(record(ALICE), driven(driving)) == Beat(idle=frozenset({told}))
    assert scene.rows(tables.turns) == before
    scene.store.give_up(*told, crashed=False)
    assert fleet.beat(record(ALICE), driven(driving)) == Beat()


def test_a_beat_touches_no_turn_of_another_worker(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    scene.open(BOB)
    before = scene.rows(tables.turns)
    fleet.beat(record(ALICE), {})
    assert scene.rows(tables.turns) == before


def test_a_beat_may_drive_hundreds_of_turns(scene: Scene, fleet: SqlFleet) -> None:
    sessions = [SessionId(f"session-{number}") for number in range(300)]
    for session_id in sessions:
        scene.send(session_id=session_id)
    turns = [scene.open(ALICE, session_id=session_id) for session_id in sessions]
    scene.store.request_cancel(sessions[7], turns[7].intent.turn_id, "not needed")
    assert fleet.beat(record(ALICE), driven(*turns)) == Beat(cancels=keys(turns[7]))


# ---------------------------------------------------------------- leaving


def test_a_worker_that_leaves_is_gone_and_its_turns_are_free(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    scene.send(session_id=OTHER_SESSION)
    fleet.beat(record(ALICE), driven(scene.open(ALICE)))
    fleet.beat(record(BOB), driven(scene.open(BOB, session_id=OTHER_SESSION)))

    for _ in range(2):
        fleet.leave(ALICE)

    assert [worker.worker for worker in fleet.workers()] == [BOB]
    assert (holder(scene, SESSION), holder(scene, OTHER_SESSION)) == (None, BOB)
    assert scene.open(BOB).attempt == 1


def test_a_worker_that_others_know_to_be_dead_leaves_its_turns_as_after_a_crash(scene: Scene, fleet: SqlFleet) -> None:
    scene.send()
    turn = scene.open(ALICE)
    fleet.beat(record(ALICE), driven(turn))

    fleet.leave(ALICE, crashed=True)

    assert fleet.workers() == []
    assert scene.open(BOB).attempt == 2


def test_a_worker_that_nobody_knows_may_leave(scene: Scene, fleet: SqlFleet) -> None:
    before = scene.everything()
    fleet.leave(WorkerId("nobody"))
    assert scene.everything() == before


# ---------------------------------------------------------------- agents


def test_a_registered_agent_is_found_by_name_and_ref(fleet: SqlFleet) -> None:
    tool = ToolSpec("charge", "Charge the customer.", {"type": "object"}, OnCrash.NEVER, 1500)
    support, sales = agent("support", tools=(tool,)), agent("sales", instructions=None, max_iterations=3)
    fleet.register_agents([support, sales])
    assert fleet.agents() == [sales, support]
    assert fleet.snapshot("support", support.ref()) == support


def test_the_newest_snapshot_of_a_name_counts_and_the_older_stay(scene: Scene, fleet: SqlFleet) -> None:
    old, new = agent(instructions="Be brief."), agent(instructions="Be thorough.")
    fleet.register_agents([old])
    scene.clock.advance(1)
    fleet.register_agents([new])
    assert fleet.agents() == [new]
    assert fleet.snapshot("support", old.ref()) == old

    scene.clock.advance(1)
    fleet.register_agents([old])
    assert fleet.agents() == [old]
    assert scene.count(tables.agents) == 2


def test_registering_again_changes_nothing_but_the_time(scene: Scene, fleet: SqlFleet) -> None:
    fleet.register_agents([agent()])
    scene.clock.advance(1)
    fleet.register_agents([agent()])
    [row] = scene.rows(tables.agents)
    assert row["seen_at_ms"] == scene.clock.now_ms()
    fleet.register_agents([])
    assert scene.rows(tables.agents) == [row]


def test_a_snapshot_that_nobody_registered_is_not_found(fleet: SqlFleet) -> None:
    fleet.register_agents([agent()])
    for name, ref in (("support", "another"), ("sales", agent().ref())):
        with pytest.raises(NotFound, match=f"{name}@{ref}"):
            fleet.snapshot(name, ref)


def test_workers_that_register_at_once_do_not_block_each_other(scene: Scene, fleet: SqlFleet) -> None:
    agents = [agent(f"agent-{number}") for number in range(10)]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(fleet.register_agents, [agents, agents[::-1]] * 10))
    assert scene.count(tables.agents) == 10
