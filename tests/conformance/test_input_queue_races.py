"""`InputQueue` with several at once: duplicates, `reject`, a cancel against a claim, a sender against everybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from sqlalchemy import delete, event, insert, select, update

from lash_tasks.domain.ids import BatchId, SessionId, TurnId, blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.domain.queue import BatchState, Cancellation, CancelVerdict, Enqueued, When
from lash_tasks.errors import SessionBusy
from lash_tasks.runtime.ingress import SendRequest
from lash_tasks.stores.protocols import CheckpointTaken, Committed, OpenedTurn
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.wiring import new_id
from tests.conformance.arrange import SESSION, Scene
from tests.conformance.inputs import draft, sent_under, serve, start_and_wait
from tests.scene import Scene as Door

ROUNDS = 340
"""On three backends: about a thousand."""
Claim = Callable[[], bool]


@pytest.fixture
def queue(scene: Scene) -> SqlInputQueue:
    serve(scene.database)
    return SqlInputQueue(scene.database)


@pytest.fixture
def other(scene: Scene, database_url: str) -> Iterator[Database]:
    """The same database as another process has it; in memory there is no other process."""
    if database_url == "sqlite://":
        yield scene.database
        return
    database = Database.open(database_url, now_ms=scene.clock.now_ms)
    yield database
    database.close()


@pytest.mark.shows("Q18")
def test_fifty_senders_with_one_key_store_one_input_and_all_get_it(
    scene: Scene, queue: SqlInputQueue, other: Database
) -> None:
    drafts = [draft(source_key="k") for _ in range(50)]
    stores = [queue, SqlInputQueue(other)]
    together = threading.Barrier(50)

    def send(number: int) -> Enqueued:
        together.wait(30)
        return stores[number % 2].enqueue(drafts[number])

    with ThreadPoolExecutor(50) as senders:
        answers = list(senders.map(send, range(50)))

    [row] = scene.rows(tables.batches)
    assert {answer.id for answer in answers} == {row["id"]}
    assert sum(answer.created for answer in answers) == 1


@pytest.mark.shows("Q18")
def test_a_thousand_inputs_without_a_key_are_a_thousand_rows_however_many_come_at_one_moment(
    scene: Scene, queue: SqlInputQueue
) -> None:
    """The clock of the database stands still, and eight senders make ids as the door of an application makes them."""
    door = replace(Door(scene.database, scene.clock).ingress, new_id=new_id)
    request = SendRequest.parse({"session_id": SESSION, "agent": "support", "text": "hello"})
    with ThreadPoolExecutor(8) as senders:
        answers = list(senders.map(lambda _: door.accept(request), range(1000)))
    assert all(answer.created for answer in answers)
    assert len({answer.id for answer in answers}) == 1000
    assert scene.count(tables.batches) == 1000


def test_of_many_that_would_rather_be_refused_one_gets_in(scene: Scene, queue: SqlInputQueue) -> None:
    together = threading.Barrier(8)

    def send(_: int) -> bool:
        together.wait(30)
        try:
            return queue.enqueue(draft(), reject_if_busy=True).created
        except SessionBusy:
            return False

    with ThreadPoolExecutor(8) as senders:
        assert sum(senders.map(send, range(8))) == 1
    assert scene.count(tables.batches) == 1


def test_reject_waits_for_an_opening_and_sees_the_turn(
    scene: Scene, queue: SqlInputQueue, other: Database, beside: ThreadPoolExecutor
) -> None:
    """The decision is taken on a snapshot of after the wait, not of before."""
    with other.transaction() as opening:
        opening.execute(insert(tables.fences).values(scope=f"session:{SESSION}", fence=1))
        asking = start_and_wait(scene.database, beside, lambda: queue.enqueue(draft(), reject_if_busy=True))
        turn = {"turn_id": "t", "turn_index": 1, "status": "running", "base_revision": 0, "batch_ids": "[]", "fence": 1}
        pinned = {"agent": "support", "agent_ref": "r", "machine_version": 1, "admitted_at_ms": 1}
        opening.execute(insert(tables.turns).values(session_id=SESSION, **turn, **pinned))
    with pytest.raises(SessionBusy):
        asking.result(30)


class Undone(Exception):
    """Rolls back the transaction that it leaves."""


@pytest.mark.parametrize("lands", [True, False])
def test_a_duplicate_waits_for_the_first_to_end(
    scene: Scene, queue: SqlInputQueue, other: Database, beside: ThreadPoolExecutor, lands: bool
) -> None:
    first, second = draft(source_key="k"), draft(source_key="k")
    with suppress(Undone), other.transaction() as connection:
        values = {"id": first.id, "session_id": SESSION, "agent": "support", "source_key": "k", "payload": b""}
        digests = {"input_digest": first.input_digest, "context_digest": "", "early": False, "exclusive": True}
        connection.execute(insert(tables.batches).values(**values, **digests, available_at_ms=1, enqueued_at_ms=1))
        waiting = start_and_wait(scene.database, beside, lambda: queue.enqueue(second))
        if not lands:
            raise Undone
    stored = first if lands else second
    assert waiting.result(30) == Enqueued(stored.id, SESSION, created=not lands)
    assert scene.count(tables.batches) == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)  # SQLite sees one snapshot
def test_a_batch_that_is_pruned_before_its_duplicate_can_read_it_is_no_duplicate(
    scene: Scene, queue: SqlInputQueue, other: Database
) -> None:
    queue.enqueue(draft(source_key="k"))

    def prune(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT id, input_digest"):
            with scene.database.transaction() as connection:
                connection.execute(delete(tables.batches))

    late = draft(source_key="k")
    event.listen(other.engine, "before_cursor_execute", prune)
    with other.transaction() as connection:
        answer = queue.enqueue_with(connection, late)
    assert answer.enqueued == Enqueued(late.id, SESSION, created=True)


@pytest.mark.parametrize("lands", [True, False])
def test_a_cancel_that_meets_a_claim_waits_and_tells_what_became_of_it(
    scene: Scene, queue: SqlInputQueue, other: Database, beside: ThreadPoolExecutor, lands: bool
) -> None:
    sent = draft()
    queue.enqueue(sent)
    with suppress(Undone), other.transaction() as claiming:
        claiming.execute(update(tables.batches).values(state="claimed", turn_id="turn-1"))
        cancel = start_and_wait(scene.database, beside, lambda: queue.cancel(SESSION, sent.id))
        if not lands:
            raise Undone
    if lands:
        assert cancel.result(30) == Cancellation(CancelVerdict.TAKEN, sent.id, TurnId("turn-1"))
        assert scene.batch(sent.id) == (BatchState.CLAIMED, "turn-1")
    else:
        assert cancel.result(30) == Cancellation(CancelVerdict.CANCELLED, sent.id)
        assert scene.batch(sent.id) == (BatchState.CANCELLED, None)


class HeadStart:
    """Lets whoever won a round begin the next one a little later, so that the two meet."""

    def __init__(self, queue: SqlInputQueue) -> None:
        self._queue = queue
        self._lead = 0
        """By how many looks at the queue the claim begins before the cancel."""
        self.wins = {"cancel": 0, "claim": 0}

    def wait(self, who: str, session_id: SessionId) -> None:
        for _ in range(self._lead if who == "cancel" else -self._lead):
            self._queue.find(session_id, source_key="k")

    def won_by(self, winner: str) -> None:
        self.wins[winner] += 1
        self._lead += 1 if winner == "cancel" else -1


def opening(scene: Scene, session_id: SessionId) -> Claim:
    """Nobody is at work in the session."""
    return lambda: isinstance(scene.try_open(session_id=session_id), OpenedTurn)


def checkpoint(scene: Scene, session_id: SessionId) -> Claim:
    """A turn runs that the input may join."""
    scene.send(session_id=session_id)
    turn = scene.open(session_id=session_id)
    return lambda: isinstance(scene.checkpoint(turn), CheckpointTaken)


@pytest.mark.shows("Q31")
@pytest.mark.parametrize(("claims", "rounds"), [(opening, ROUNDS), (checkpoint, ROUNDS // 4)])
def test_of_a_cancel_and_a_claim_exactly_one_wins_and_each_wins_at_times(
    scene: Scene, queue: SqlInputQueue, claims: Callable[[Scene, SessionId], Claim], rounds: int
) -> None:
    race = HeadStart(queue)
    with ThreadPoolExecutor(1) as pool:
        for number in range(rounds):
            session_id = SessionId(f"session-{number}")
            claim = claims(scene, session_id)
            sent = draft(session_id, **sent_under(When.STEER))
            queue.enqueue(sent)
            together = threading.Barrier(2)

            def cancel(session_id: SessionId = session_id, batch_id: BatchId = sent.id) -> Cancellation | None:
                together.wait(30)  # noqa: B023 - the round ends before the next barrier is made
                race.wait("cancel", session_id)
                return queue.cancel(session_id, batch_id)

            cancelling = pool.submit(cancel)
            together.wait(30)
            race.wait("claim", session_id)
            taken, cancelled = claim(), cancelling.result(30)
            assert cancelled is not None
            assert taken == (cancelled.verdict is CancelVerdict.TAKEN), cancelled
            assert taken != (cancelled.verdict is CancelVerdict.CANCELLED), cancelled
            state = BatchState.CLAIMED if taken else BatchState.CANCELLED
            assert scene.batch(sent.id) == (state, cancelled.turn_id)
            race.won_by("claim" if taken else "cancel")
    assert min(race.wins.values()) >= rounds // 10, race.wins


def test_of_many_replays_of_one_dead_letter_one_makes_the_input(scene: Scene, queue: SqlInputQueue) -> None:
    queue.enqueue(draft())
    turn = scene.open()
    scene.committed(turn, dead_reason="poison")
    [dead] = turn.intent.batch_ids
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: queue.replay(dead, BatchId(f"replay-{number}")), range(16)))
    assert {answer.id for answer in answers if answer} == {queue.dead()[0].replayed_as}
    assert sum(answer.created for answer in answers if answer) == 1
    assert None not in answers


def test_senders_of_the_same_pictures_in_another_order_do_not_block_each_other(
    scene: Scene, queue: SqlInputQueue
) -> None:
    together = threading.Barrier(2)

    def send(pictures: list[Blob]) -> bool:
        together.wait(30)
        return queue.enqueue(draft(blobs=tuple(pictures))).created

    with ThreadPoolExecutor(2) as senders:
        for number in range(10):
            contents = [f"{number}/{part}".encode() for part in range(400)]
            pictures = [Blob(blob_ref(content), content) for content in contents]
            assert all(senders.map(send, [pictures, pictures[::-1]]))
    assert scene.count(tables.blobs) == 4000


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)  # SQLite has one writer at a time
def test_a_sender_waits_for_no_turn_that_holds_the_fence(
    scene: Scene, queue: SqlInputQueue, other: Database, beside: ThreadPoolExecutor
) -> None:
    """An opening and a commit hold it; only what asks whether the session is at work, or stops it, waits for them."""
    queue.enqueue(draft())
    scene.open()
    with other.transaction() as turn:
        turn.execute(select(tables.fences).with_for_update())
        for when in (When.QUEUE, When.STEER, When.MERGE):
            late = draft(**sent_under(when), blobs=(Blob(blob_ref(b"picture"), b"picture"),))
            assert beside.submit(queue.enqueue, late).result(5).created, when


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)  # SQLite has one writer at a time
def test_an_open_transaction_of_a_sender_stops_no_turn(scene: Scene, queue: SqlInputQueue, other: Database) -> None:
    queue.enqueue(draft())
    with other.transaction() as sender:
        late = draft()
        SqlInputQueue(other).enqueue_with(sender, late)
        turn = scene.open()
        assert isinstance(scene.commit(turn), Committed)
        assert queue.find(SESSION, batch_id=late.id) is None
    assert scene.open().intent.batch_ids == (late.id,)


def test_sequence_numbers_rise_in_the_order_of_enqueueing(scene: Scene, queue: SqlInputQueue) -> None:
    sent = [draft() for _ in range(5)]
    for one in sent:
        queue.enqueue(one)
    with scene.database.reading() as connection:
        stored = connection.execute(select(tables.batches.c.id).order_by(tables.batches.c.seq)).scalars().all()
    assert stored == [one.id for one in sent]
