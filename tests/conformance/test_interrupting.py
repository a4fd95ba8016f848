"""An urgent input and the cancel of the turn that runs are stored together, over whatever connection, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, text, update

from lash_tasks.domain.queue import MAX_BATCHES_PER_CLAIM, BatchState
from lash_tasks.stores.protocols import CheckpointRefused
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.queue import SqlInputQueue
from tests.conformance.arrange import SESSION, Scene, journal_row
from tests.conformance.callers import KINDS_OF_DATABASES, Caller, calling
from tests.conformance.inputs import OTHER_SESSION, draft, serve, start_and_wait

by_every_kind = pytest.mark.parametrize(
    ("database_url", "kind"),
    [pytest.param(url, kind, id=f"{url}-{kind.__name__}") for url, kind in KINDS_OF_DATABASES],
    indirect=["database_url"],
)


@pytest.fixture
def queue(scene: Scene) -> SqlInputQueue:
    serve(scene.database)
    with scene.database.transaction() as connection:
        connection.execute(text("CREATE TABLE orders (name TEXT)"))
    return SqlInputQueue(scene.database)


@pytest.fixture
def caller(queue: SqlInputQueue, kind: type[Caller], database_url: str) -> Iterator[Caller]:
    with calling(kind, database_url) as caller:
        yield caller


def cancels(scene: Scene) -> dict[str, str]:
    """The turns that are asked to stop, and why."""
    return {row["turn_id"]: row["reason"] for row in scene.rows(tables.turn_cancels)}


def test_the_turn_that_runs_is_asked_to_stop(scene: Scene, queue: SqlInputQueue) -> None:
    scene.send(session_id=OTHER_SESSION)
    scene.open(session_id=OTHER_SESSION)
    scene.send()
    turn = scene.open()
    scene.send()
    sent = draft(urgent=True)
    queue.enqueue(sent)
    assert cancels(scene) == {turn.intent.turn_id: f"interrupted by input {sent.id}"}
    [row] = scene.rows(tables.turn_cancels)
    assert (row["session_id"], row["requested_at_ms"]) == (SESSION, scene.clock.now_ms())
    scene.committed(turn)
    assert [batch.id for batch in scene.open().batches] == [sent.id]
    assert cancels(scene) == {}


def test_where_nothing_runs_it_only_goes_first(scene: Scene, queue: SqlInputQueue) -> None:
    scene.send()
    sent = draft(urgent=True)
    queue.enqueue(sent)
    assert cancels(scene) == {}
    assert queue.waiting(SESSION)[0].id == sent.id
    assert [batch.id for batch in scene.open().batches] == [sent.id]


def test_a_turn_that_is_just_being_opened_is_asked_to_stop_as_well(
    scene: Scene, queue: SqlInputQueue, database_url: str, beside: ThreadPoolExecutor
) -> None:
    """Neither of the two saw the other: the sender found no turn that runs, and the opening no urgent input. So the
    turn ran to its end, however long, and what was to replace it waited."""
    other = Database.open(database_url, now_ms=scene.clock.now_ms) if database_url != "sqlite://" else scene.database
    sent = draft(urgent=True)
    with other.transaction() as opening:
        opening.execute(insert(tables.fences).values(scope=f"session:{SESSION}", fence=1))
        turn = {"turn_id": "t", "turn_index": 1, "status": "running", "base_revision": 0, "batch_ids": "[]", "fence": 1}
        pinned = {"agent": "support", "agent_ref": "r", "machine_version": 1, "admitted_at_ms": 1}
        opening.execute(insert(tables.turns).values(session_id=SESSION, **turn, **pinned))
        sending = start_and_wait(scene.database, beside, lambda: queue.enqueue(sent))
    assert sending.result(30).created
    assert cancels(scene) == {"t": f"interrupted by input {sent.id}"}
    if other is not scene.database:
        other.close()


def test_it_goes_before_a_line_longer_than_any_claim(scene: Scene, queue: SqlInputQueue) -> None:
    for _ in range(MAX_BATCHES_PER_CLAIM + 1):
        scene.send()
    sent = draft(urgent=True)
    queue.enqueue(sent)
    assert [batch.id for batch in scene.open().batches] == [sent.id]


def test_it_hides_the_steers_before_it_from_the_turn_that_is_to_stop(scene: Scene, queue: SqlInputQueue) -> None:
    scene.send()
    turn = scene.open()
    steer = scene.inject()
    queue.enqueue(sent := draft(urgent=True))
    assert not scene.store.record([journal_row(turn)])[0].joinable
    assert scene.checkpoint(turn) is CheckpointRefused.EMPTY
    scene.committed(turn, refuse_if_joinable=True)
    for expected in (sent.id, steer):
        opened = scene.open()
        assert [batch.id for batch in opened.batches] == [expected]
        scene.committed(opened)


def test_a_duplicate_stops_nothing_again(scene: Scene, queue: SqlInputQueue) -> None:
    """The first one has done its work; the turn that runs by now is another, perhaps its own."""
    first, again = (draft(urgent=True, source_key="k") for _ in range(2))
    assert queue.enqueue(first).created
    turn = scene.open()
    assert not queue.enqueue(again).created
    assert cancels(scene) == {}
    scene.committed(turn)
    scene.send()
    scene.open()
    assert not queue.enqueue(draft(urgent=True, source_key="k")).created
    assert cancels(scene) == {}


@by_every_kind
def test_a_caller_s_open_interruption_keeps_nobody_from_interrupting_and_cancelling(
    scene: Scene, queue: SqlInputQueue, caller: Caller, beside: ThreadPoolExecutor
) -> None:
    """Both asked the same turn to stop, and whoever came second waited for the first one's transaction, or gave up;
    the turn waited with it."""
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    scene.send()
    turn = scene.open()
    theirs, ours = draft(urgent=True), draft(urgent=True)
    caller.order()
    queue.enqueue_with(caller.connection, theirs)
    assert beside.submit(queue.enqueue, ours).result(5).created
    assert beside.submit(scene.store.request_cancel, SESSION, turn.intent.turn_id, "enough").result(5)
    assert beside.submit(scene.record, turn).result(5) == "recorded"
    beside.submit(scene.committed, turn).result(5)
    caller.commit()
    assert [batch.id for batch in scene.open().batches] == [theirs.id]


def test_a_turn_may_be_asked_to_stop_by_many(scene: Scene, queue: SqlInputQueue) -> None:
    scene.send()
    turn = scene.open()
    first, second = draft(urgent=True), draft(urgent=True)
    queue.enqueue(first)
    queue.enqueue(second)
    assert {(row["turn_id"], row["cause"]) for row in scene.rows(tables.turn_cancels)} == {
        (turn.intent.turn_id, first.id),
        (turn.intent.turn_id, second.id),
    }
    assert scene.record(turn) == "recorded"
    scene.committed(turn)
    assert cancels(scene) == {}
    for expected in (first, second):
        opened = scene.open()
        assert ([batch.id for batch in opened.batches], opened.cancel) == ([expected.id], False)
        scene.committed(opened)


def test_a_command_is_let_finish(scene: Scene, queue: SqlInputQueue) -> None:
    batch_id = scene.send()
    scene.open()
    with scene.database.transaction() as connection:
        connection.execute(update(tables.batches).where(tables.batches.c.id == batch_id).values(kind="command"))
    queue.enqueue(draft(urgent=True))
    assert cancels(scene) == {}


def test_the_replay_of_a_dead_interruption_waits_its_turn_and_stops_nothing(scene: Scene, queue: SqlInputQueue) -> None:
    queue.enqueue(dead := draft(urgent=True))
    scene.committed(scene.open(), dead_reason="attempts_exhausted")
    scene.send("before")
    queue.replay(dead.id, draft().id)
    assert cancels(scene) == {}
    assert [batch.id for batch in scene.open().batches] == ["before"]


@by_every_kind
@pytest.mark.parametrize("lands", [True, False])
def test_over_a_callers_connection_both_land_with_the_transaction_or_neither(
    scene: Scene, queue: SqlInputQueue, caller: Caller, lands: bool
) -> None:
    scene.send()
    turn = scene.open()
    sent = draft(urgent=True)
    caller.order()
    queue.enqueue_with(caller.connection, sent)
    assert cancels(scene) == {}
    if not lands:
        caller.rollback()
        assert (cancels(scene), queue.find(SESSION, batch_id=sent.id)) == ({}, None)
        return
    caller.commit()
    assert cancels(scene) == {turn.intent.turn_id: f"interrupted by input {sent.id}"}
    assert scene.batch(sent.id) == (BatchState.READY, None)
