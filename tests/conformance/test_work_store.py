"""`WorkStore`: what could run, told as `open` would decide it, and the removal of what is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from lash_tasks.domain.ids import BatchId, SessionId, WorkerId
from lash_tasks.domain.queue import CancelVerdict
from lash_tasks.stores.protocols import NotOpened, OpenedTurn, OpenRequest, Pinned, Pruning, Runnable
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import ALICE, BOB, MACHINE_VERSION, SESSION, WORKER_TTL_MS, Scene
from tests.conformance.inputs import OTHER_SESSION, draft, serve

AGENTS = ["support", "sales"]
REFS = dict.fromkeys(AGENTS, "ref-1")
SERVED, FOREIGN = "ref-served", "ref-foreign"
CAROL = WorkerId("carol")
DAY_MS = 86_400_000
KEEP = Pruning(keys_after_ms=7 * DAY_MS)


@pytest.fixture
def work(scene: Scene) -> SqlWorkStore:
    serve(scene.database, *AGENTS)
    return SqlWorkStore(scene.database, worker_ttl_ms=WORKER_TTL_MS)


@pytest.fixture
def queue(scene: Scene, work: SqlWorkStore) -> SqlInputQueue:
    return SqlInputQueue(scene.database)


# ---------------------------------------------------------------- runnable


def request(worker: WorkerId) -> OpenRequest:
    return OpenRequest(
        session_id=SESSION,
        worker=worker,
        agents=REFS,
        machine_version=MACHINE_VERSION,
        refs=frozenset({SERVED}),
    )


def nothing_at_all(scene: Scene) -> None:
    scene.send(session_id=OTHER_SESSION)


def ready_input(scene: Scene) -> None:
    scene.send()


def input_available_only_later(scene: Scene) -> None:
    scene.send(available_at_ms=scene.clock.now_ms() + 1)


def input_available_just_now(scene: Scene) -> None:
    scene.send(available_at_ms=scene.clock.now_ms())


def input_of_an_unknown_agent_ahead(scene: Scene) -> None:
    scene.send(agent="nobody")
    scene.send()


def delayed_input_of_an_unknown_agent_ahead(scene: Scene) -> None:
    scene.send(agent="nobody", available_at_ms=scene.clock.now_ms() + 60_000)
    scene.send()


def cancelled_input(scene: Scene) -> None:
    cancellation = SqlInputQueue(scene.database).cancel(SESSION, scene.send())
    assert cancellation is not None
    assert cancellation.verdict is CancelVerdict.CANCELLED


def input_in_a_deleted_session(scene: Scene) -> None:
    scene.send()
    scene.bury()


def turn_of_a_live_worker(scene: Scene) -> None:
    scene.send()
    scene.send()
    scene.beat(ALICE)
    scene.open(ALICE)


def turn_of_a_worker_that_beat_a_moment_ago(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE, ago_ms=WORKER_TTL_MS - 1)
    scene.open(ALICE)


def turn_of_a_worker_that_beat_too_long_ago(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE, ago_ms=WORKER_TTL_MS)
    scene.open(ALICE)


def turn_of_a_worker_that_never_beat(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)


def turn_given_up(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    turn = scene.open(ALICE)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)


def turn_given_up_by_a_crash(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    turn = scene.open(ALICE)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)


def turn_of_an_unknown_agent_given_up(scene: Scene) -> None:
    scene.send(agent="nobody")
    turn = scene.open(ALICE, agents={"nobody": "ref-2"})
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)
    scene.send()


def given_up(scene: Scene, **opening: Any) -> OpenedTurn:
    scene.send()
    turn = scene.open(ALICE, **opening)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)
    return turn


def turn_of_another_version_of_the_agent(scene: Scene) -> None:
    given_up(scene, agents={"support": FOREIGN})


def turn_of_another_version_that_we_can_run_too(scene: Scene) -> None:
    given_up(scene, agents={"support": SERVED})


def turn_of_another_machine_version(scene: Scene) -> None:
    given_up(scene, machine_version=MACHINE_VERSION - 1)


def turn_of_another_version_that_is_to_be_cancelled(scene: Scene) -> None:
    turn = given_up(scene, agents={"support": FOREIGN}, machine_version=MACHINE_VERSION + 1)
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "no code is left")


def turn_of_an_unknown_agent_that_is_to_be_cancelled(scene: Scene) -> None:
    scene.send(agent="nobody")
    turn = scene.open(ALICE, agents={"nobody": "ref-2"})
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "it is gone")


def committed_turn(scene: Scene) -> None:
    scene.send()
    scene.committed(scene.open(ALICE))


def committed_turn_with_more_input(scene: Scene) -> None:
    committed_turn(scene)
    scene.send()


SITUATIONS: tuple[Callable[[Scene], None], ...] = (
    nothing_at_all,
    ready_input,
    input_available_only_later,
    input_available_just_now,
    input_of_an_unknown_agent_ahead,
    delayed_input_of_an_unknown_agent_ahead,
    cancelled_input,
    input_in_a_deleted_session,
    turn_of_a_live_worker,
    turn_of_a_worker_that_beat_a_moment_ago,
    turn_of_a_worker_that_beat_too_long_ago,
    turn_of_a_worker_that_never_beat,
    turn_given_up,
    turn_given_up_by_a_crash,
    turn_of_an_unknown_agent_given_up,
    turn_of_another_version_of_the_agent,
    turn_of_another_version_that_we_can_run_too,
    turn_of_another_machine_version,
    turn_of_another_version_that_is_to_be_cancelled,
    turn_of_an_unknown_agent_that_is_to_be_cancelled,
    committed_turn,
    committed_turn_with_more_input,
)


@pytest.mark.parametrize("worker", [ALICE, BOB])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_runnable_is_what_an_opening_finds_and_writes_nothing(
    scene: Scene, work: SqlWorkStore, situation: Callable[[Scene], None], worker: str
) -> None:
    situation(scene)
    before = scene.everything()
    told = work.runnable(request(WorkerId(worker)))
    assert scene.everything() == before

    found = scene.try_open(WorkerId(worker), agents=REFS, refs=[SERVED])

    if isinstance(found, NotOpened):
        assert told is None
    else:
        assert isinstance(found, OpenedTurn)
        assert told == Runnable(SESSION, found.intent.turn_id if found.resumed else None)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_listings_show_a_session_exactly_when_it_is_runnable_by_anybody(
    scene: Scene, work: SqlWorkStore, situation: Callable[[Scene], None]
) -> None:
    situation(scene)
    told = work.runnable(request(CAROL))
    abandoned = work.abandoned(AGENTS, machine_version=MACHINE_VERSION, besides=[FOREIGN])
    listed = [*abandoned, *work.ready(AGENTS)]
    assert [one for one in listed if one.session_id == SESSION] == ([] if told is None else [told])


def test_a_worker_without_agents_finds_nothing(scene: Scene, work: SqlWorkStore) -> None:
    turn_given_up(scene)
    scene.send(session_id=OTHER_SESSION)
    assert work.runnable(replace(request(CAROL), agents={})) is None
    assert work.runnable(replace(request(CAROL), agents={}, session_id=OTHER_SESSION)) is None
    assert (work.abandoned([]), work.ready([]), work.due([], DAY_MS)) == ([], [], [])


# ---------------------------------------------------------------- abandoned


def test_abandoned_turns_say_what_they_are_pinned_to_unless_they_are_to_be_cancelled(
    scene: Scene, work: SqlWorkStore
) -> None:
    turn = given_up(scene, agents={"support": FOREIGN}, machine_version=MACHINE_VERSION + 1)
    [listed] = work.abandoned(None)
    assert listed.pinned == work.pinned(SESSION) == Pinned("support", FOREIGN, MACHINE_VERSION + 1)

    scene.store.request_cancel(SESSION, turn.intent.turn_id, "stop")
    [listed] = work.abandoned(["sales"], besides=[FOREIGN])
    assert listed == Runnable(SESSION, turn.intent.turn_id)
    assert listed.pinned is None


def test_a_session_without_an_unfinished_turn_is_pinned_to_nothing(scene: Scene, work: SqlWorkStore) -> None:
    committed_turn_with_more_input(scene)
    assert work.pinned(SESSION) is None
    assert work.pinned(OTHER_SESSION) is None


def test_abandoned_turns_are_listed_in_the_order_of_their_admission(scene: Scene, work: SqlWorkStore) -> None:
    scene.beat(ALICE)
    expected = []
    for number, worker in enumerate([BOB, ALICE, BOB, ALICE]):
        session_id = SessionId(f"session-{9 - number}")
        scene.send(session_id=session_id)
        scene.clock.advance(0.001)
        turn = scene.open(worker, session_id=session_id)
        if worker == BOB:
            expected.append(Runnable(session_id, turn.intent.turn_id))
    assert work.abandoned(AGENTS) == expected
    assert work.abandoned(AGENTS, limit=1) == expected[:1]
    assert work.abandoned(["sales"]) == []


# ---------------------------------------------------------------- ready


def test_ready_sessions_are_listed_once_longest_waiting_first(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    names = [SessionId(name) for name in ("c", "a", "b")]
    for name in names:
        queue.enqueue(draft(name))
        scene.clock.advance(0.001)
    for name in names:
        queue.enqueue(draft(name))
    assert work.ready(AGENTS) == [Runnable(name) for name in names]
    assert work.ready(AGENTS, limit=2) == [Runnable(name) for name in names[:2]]
    assert work.ready(["sales"]) == []


def test_ready_asks_how_long_the_input_has_waited(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    queue.enqueue(draft())
    scene.clock.advance(0.999)
    queue.enqueue(draft(OTHER_SESSION))
    assert work.ready(AGENTS, waiting_ms=1000) == []
    scene.clock.advance(0.001)
    assert work.ready(AGENTS, waiting_ms=1000) == [Runnable(SESSION)]


def test_a_delayed_input_waits_from_when_it_became_available(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    queue.enqueue(draft(available_at_ms=scene.clock.now_ms() + 5000))
    scene.clock.advance(5.5)
    assert work.ready(AGENTS, waiting_ms=1000) == []
    assert work.ready(AGENTS, waiting_ms=500) == [Runnable(SESSION)]


# ---------------------------------------------------------------- due


def test_due_are_sessions_whose_delayed_input_became_available_lately(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    now = scene.clock.now_ms()
    queue.enqueue(draft(OTHER_SESSION))
    queue.enqueue(draft(available_at_ms=now + 5000))
    queue.enqueue(draft(available_at_ms=now + 5001))
    assert work.due(AGENTS, since_ms=2000) == []

    scene.clock.advance(5.001)
    assert work.due(AGENTS, since_ms=2000) == [Runnable(SESSION)]
    assert work.due(["sales"], since_ms=2000) == []

    scene.clock.advance(2)
    assert work.due(AGENTS, since_ms=2000) == []
    assert Runnable(SESSION) in work.ready(AGENTS)


def test_due_leaves_out_what_could_not_run(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    now = scene.clock.now_ms()
    names = [SessionId(name) for name in ("running", "deleted", "behind", "cancelled", "free-1", "free-2")]
    running, deleted, behind, cancelled, *free = names
    queue.enqueue(draft(running))
    queue.enqueue(draft(behind))
    with scene.database.transaction() as connection:
        connection.execute(update(tables.batches).where(tables.batches.c.session_id == behind).values(agent="nobody"))
    scene.open(session_id=running)
    sent = {name: draft(name, available_at_ms=now + 1000) for name in names}
    for one in sent.values():
        queue.enqueue(one)
    scene.bury(deleted)
    queue.cancel(cancelled, sent[cancelled].id)
    scene.clock.advance(1)
    assert {one.session_id for one in work.due(AGENTS, since_ms=1000)} == set(free)
    assert len(work.due(AGENTS, since_ms=1000, limit=1)) == 1


# ---------------------------------------------------------------- pruning


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
