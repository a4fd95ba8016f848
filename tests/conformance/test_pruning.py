"""`WorkStore.prune`: what is over goes after its time, kind by kind, and what somebody may still ask for stays."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update

from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.stores.protocols import OpenedTurn, Pruning
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import ALICE, BOB, SESSION, WORKER_TTL_MS, Scene
from tests.conformance.inputs import OTHER_SESSION, draft, serve

DAY_MS = 86_400_000
KEEP = Pruning(keys_after_ms=7 * DAY_MS)


@pytest.fixture
def work(scene: Scene) -> SqlWorkStore:
    serve(scene.database, "support", "sales")
    return SqlWorkStore(scene.database, worker_ttl_ms=WORKER_TTL_MS)


@pytest.fixture
def queue(scene: Scene, work: SqlWorkStore) -> SqlInputQueue:
    return SqlInputQueue(scene.database)


def batch_ids(scene: Scene) -> list[str]:
    with scene.database.reading() as connection:
        return list(connection.execute(select(tables.batches.c.id).order_by(tables.batches.c.seq)).scalars())


def test_ended_inputs_go_after_the_time_that_keys_are_kept(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    consumed, cancelled = draft(source_key="k"), draft(OTHER_SESSION)
    for one in (consumed, cancelled):
        queue.enqueue(one)
    queue.cancel(OTHER_SESSION, cancelled.id)
    scene.committed(scene.open())
    scene.clock.advance(KEEP.keys_after_ms / 1000)
    assert work.prune(KEEP) == 0
    assert queue.enqueue(draft(source_key="k")).id == consumed.id

    scene.clock.advance(0.001)
    assert work.prune(KEEP) == 2

    assert batch_ids(scene) == []
    assert work.prune(KEEP) == 0
    assert queue.enqueue(draft(source_key="k")).created


def test_input_that_has_not_ended_is_never_pruned(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    queue.enqueue(draft())
    scene.open()
    queue.enqueue(draft())
    queue.enqueue(draft(available_at_ms=scene.clock.now_ms() + 1))
    scene.clock.advance(365 * 86_400)
    assert work.prune(Pruning(keys_after_ms=0, journals_after_ms=0)) == 0
    assert len(batch_ids(scene)) == 3


def test_dead_letters_stay_and_so_does_the_knowledge_of_their_replay(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    dead, replay = draft(), BatchId("replay-1")
    queue.enqueue(dead)
    scene.committed(scene.open(), dead_reason="poison")
    queue.replay(dead.id, replay)
    scene.committed(scene.open())
    scene.clock.advance(365 * 86_400)

    assert work.prune(KEEP) == 0

    again = queue.replay(dead.id, BatchId("replay-2"))
    assert again is not None
    assert (again.id, again.created) == (replay, False)
    assert queue.dead()[0].replayed_as == replay


def test_input_that_slipped_into_a_deleted_session_goes(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    queue.enqueue(draft())
    queue.enqueue(draft(OTHER_SESSION))
    scene.bury()
    assert work.prune(KEEP) == 1
    assert [batch.session_id for batch in queue.waiting()] == [OTHER_SESSION]


def closed_turn(scene: Scene, session_id: SessionId = SESSION, effects: int = 3) -> OpenedTurn:
    scene.send(session_id=session_id)
    turn = scene.open(session_id=session_id)
    for number in range(effects):
        scene.record(turn, f"call-{number}")
    scene.committed(turn)
    return turn


def test_journals_of_closed_turns_go_after_their_time_and_results_stay(scene: Scene, work: SqlWorkStore) -> None:
    closed_turn(scene)
    scene.clock.advance(10)
    closed_turn(scene)
    scene.send()
    running = scene.open()
    scene.record(running, "call-0")
    scene.clock.advance(21)
    assert work.prune(KEEP) == 0
    assert scene.count(tables.effects) == 7

    assert work.prune(Pruning(keys_after_ms=DAY_MS, journals_after_ms=30_000)) == 3

    assert scene.count(tables.effects) == 4
    results = {row["turn_index"]: row["result"] for row in scene.rows(tables.turns)}
    assert results == {1: b"result", 2: b"result", 3: None}


def test_a_turn_whose_journal_is_gone_is_not_looked_at_again(scene: Scene, work: SqlWorkStore) -> None:
    pruning = Pruning(keys_after_ms=DAY_MS, journals_after_ms=1000)
    closed_turn(scene, effects=2)
    closed_turn(scene, OTHER_SESSION, effects=0)
    scene.clock.advance(2)
    assert work.prune(pruning) == 2
    assert [row["pruned_at_ms"] for row in scene.rows(tables.turns)] == [scene.clock.now_ms()] * 2

    late = {"scope": f"session:{SESSION}/x", "replay_key": "k", "ordinal": 0, "fence": 1, "state": "done"}
    with scene.database.transaction() as connection:
        scope = select(tables.turns.c.turn_id).where(tables.turns.c.session_id == SESSION)
        turn_id = connection.execute(scope).scalar_one()
        row = {**late, "scope": f"session:{SESSION}/{turn_id}", "envelope": b""}
        connection.execute(insert(tables.effects).values(row))
    assert work.prune(pruning) == 0


def test_many_closed_turns_without_a_journal_look_like_a_full_pass(scene: Scene, work: SqlWorkStore) -> None:
    pruning = Pruning(keys_after_ms=DAY_MS, journals_after_ms=1000)
    for number in range(5):
        closed_turn(scene, SessionId(f"session-{number}"), effects=0)
    scene.clock.advance(2)
    assert [work.prune(pruning, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert all(row["pruned_at_ms"] for row in scene.rows(tables.turns))


def test_much_of_one_kind_keeps_no_other_from_going(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    """All kinds shared one bound, and ended inputs came first: beyond some traffic nothing else was ever removed."""
    closed_turn(scene)
    scene.beat(ALICE)
    for _ in range(3):
        one = draft(OTHER_SESSION)
        queue.enqueue(one)
        queue.cancel(OTHER_SESSION, one.id)
    scene.clock.advance(2)
    work.prune(Pruning(keys_after_ms=1000, journals_after_ms=1000, workers_after_ms=1000), limit=3)
    assert (scene.count(tables.workers), scene.count(tables.effects), scene.count(tables.batches)) == (0, 0, 1)


def test_pruning_is_bounded_and_goes_on_where_it_stopped(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    pruning = Pruning(keys_after_ms=1000, journals_after_ms=1000, workers_after_ms=1000)
    for number in range(3):
        closed_turn(scene, SessionId(f"session-{number}"), effects=3)
    scene.beat(ALICE)
    scene.beat(BOB)
    scene.clock.advance(2)

    removed: list[int] = []
    while not removed or removed[-1]:
        removed.append(work.prune(pruning, limit=4))

    assert removed == [3 + 4 + 2, 4, 1, 0]
    left = {table.name: scene.count(table) for table in (tables.batches, tables.effects, tables.workers)}
    assert left == {"lash_batches": 0, "lash_effects": 0, "lash_workers": 0}
    assert all(row["pruned_at_ms"] for row in scene.rows(tables.turns))


def test_a_cancel_that_came_too_late_goes_and_one_that_waits_stays(scene: Scene, work: SqlWorkStore) -> None:
    over = closed_turn(scene)
    late = {"session_id": SESSION, "turn_id": over.intent.turn_id, "reason": "late", "requested_at_ms": 1, "cause": "a"}
    with scene.database.transaction() as connection:
        connection.execute(insert(tables.turn_cancels).values(late))
    scene.send()
    running = scene.open()
    scene.store.request_cancel(SESSION, running.intent.turn_id, "not needed")
    assert work.prune(KEEP) == 1
    [row] = scene.rows(tables.turn_cancels)
    assert row["turn_id"] == running.intent.turn_id


def test_workers_that_were_not_seen_for_long_go(scene: Scene, work: SqlWorkStore) -> None:
    scene.beat(ALICE)
    scene.beat(BOB, ago_ms=KEEP.workers_after_ms + 1)
    assert work.prune(KEEP) == 1
    assert [row["id"] for row in scene.rows(tables.workers)] == [ALICE]


def test_of_an_agent_the_newest_the_served_and_the_pinned_version_stay(scene: Scene, work: SqlWorkStore) -> None:
    for ref in ("old", "served", "pinned"):
        row = {"name": "support", "ref": ref, "snapshot": b"", "seen_at_ms": 1}
        with scene.database.transaction() as connection:
            connection.execute(insert(tables.agents).values(row))
    scene.beat(ALICE)
    with scene.database.transaction() as connection:
        connection.execute(update(tables.workers).values(agents='{"support":"served"}'))
    scene.send()
    scene.open(agents={"support": "pinned"})
    recently = Pruning(keys_after_ms=scene.clock.now_ms() - 1, workers_after_ms=2**40)
    assert work.prune(recently) == 0
    scene.clock.advance(1)
    assert work.prune(recently) == 1
    kept = {(row["name"], row["ref"] if row["snapshot"] == b"" else "newest") for row in scene.rows(tables.agents)}
    assert kept == {("support", "served"), ("support", "pinned"), ("support", "newest"), ("sales", "newest")}
