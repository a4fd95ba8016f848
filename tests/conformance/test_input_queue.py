"""`InputQueue`, one caller at a time: enqueue, find, waiting, cancel, dead letters and their replay."""

from __future__ import annotations

import pytest

from lash_tasks.domain.ids import BatchId, SessionId, TurnId, blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.domain.queue import BatchRecord, BatchState, Cancellation, CancelVerdict, DeadLetter, Enqueued
from lash_tasks.errors import (
    IdempotencyConflict,
    NoWorkerHasRegistered,
    SessionBusy,
    SessionDeleted,
    UnknownAgent,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import SESSION, Scene
from tests.conformance.inputs import OTHER_SESSION, draft, serve

PICTURE = b"\x89PNG\r\n\x1a\n" + b"\x00\xff" * 10
NEW_ID = BatchId("replay-1")


@pytest.fixture
def queue(scene: Scene) -> SqlInputQueue:
    serve(scene.database, "support", "sales")
    return SqlInputQueue(scene.database)


# ---------------------------------------------------------------- enqueue


def test_an_input_is_stored_as_it_was_sent(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft(source_key="host:msg-1", early=True, exclusive=False, merge_key="chat", payload=b"\x00\x01payload")

    assert queue.enqueue(sent) == Enqueued(sent.id, SESSION, created=True)

    stored = queue.find(SESSION, batch_id=sent.id)
    assert stored is not None
    assert stored == BatchRecord(
        id=sent.id,
        session_id=SESSION,
        seq=stored.seq,
        agent="support",
        state=BatchState.READY,
        turn_id=None,
        source_key="host:msg-1",
        early=True,
        exclusive=False,
        merge_key="chat",
        available_at_ms=scene.clock.now_ms(),
        enqueued_at_ms=scene.clock.now_ms(),
        payload=b"\x00\x01payload",
        replay_of=None,
    )
    [row] = scene.rows(tables.batches)
    assert (row["input_digest"], row["context_digest"], row["ended_at_ms"]) == (
        sent.input_digest,
        sent.context_digest,
        None,
    )


def test_a_sender_writes_nothing_but_the_input(scene: Scene, queue: SqlInputQueue) -> None:
    before = scene.everything()
    queue.enqueue(draft())
    after = scene.everything()
    assert {name for name in after if after[name] != before[name]} == {"lash_batches"}


def test_an_opening_finds_what_was_enqueued(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft()
    queue.enqueue(sent)
    assert scene.open().intent.batch_ids == (sent.id,)


def test_a_delay_is_kept_and_one_that_is_over_counts_from_now(scene: Scene, queue: SqlInputQueue) -> None:
    now = scene.clock.now_ms()
    later, past = draft(available_at_ms=now + 60_000), draft(available_at_ms=now - 60_000)
    for sent in (later, past):
        queue.enqueue(sent)
    stored = {batch.id: batch.available_at_ms for batch in queue.waiting()}
    assert stored == {later.id: now + 60_000, past.id: now}


def test_blobs_are_stored_with_the_input_and_once(scene: Scene, queue: SqlInputQueue) -> None:
    blobs = (Blob(blob_ref(PICTURE), PICTURE), Blob(blob_ref(b""), b""))
    queue.enqueue(draft(blobs=blobs))
    queue.enqueue(draft(blobs=blobs[:1]))
    stored = {row["ref"]: bytes(row["content"]) for row in scene.rows(tables.blobs)}
    assert stored == {blob_ref(PICTURE): PICTURE, blob_ref(b""): b""}


def test_the_same_key_with_the_same_input_answers_with_the_first(scene: Scene, queue: SqlInputQueue) -> None:
    first = draft(source_key="k", blobs=(Blob(blob_ref(PICTURE), PICTURE),))
    queue.enqueue(first)
    before = scene.everything()

    again = draft(source_key="k", blobs=(Blob(blob_ref(b"other"), b"other"),))
    assert queue.enqueue(again) == Enqueued(first.id, SESSION, created=False)

    assert scene.everything() == before


def test_the_same_key_with_another_input_is_refused(scene: Scene, queue: SqlInputQueue) -> None:
    queue.enqueue(draft(words="buy", source_key="k"))
    before = scene.everything()

    with pytest.raises(IdempotencyConflict) as conflict:
        queue.enqueue(draft(words="sell", source_key="k"))

    assert (conflict.value.session_id, conflict.value.idempotency_key) == (SESSION, "k")
    assert scene.everything() == before


def test_keys_belong_to_a_session_and_inputs_without_one_are_all_new(scene: Scene, queue: SqlInputQueue) -> None:
    sent = [draft(source_key="k"), draft(OTHER_SESSION, source_key="k"), draft(), draft()]
    assert all(queue.enqueue(one).created for one in sent)
    assert scene.count(tables.batches) == 4


@pytest.mark.parametrize("end", ["claimed", "consumed", "cancelled", "dead"])
def test_a_key_answers_whatever_has_become_of_its_batch(scene: Scene, queue: SqlInputQueue, end: str) -> None:
    first = draft(source_key="k")
    queue.enqueue(first)
    if end == "cancelled":
        queue.cancel(SESSION, first.id)
    else:
        turn = scene.open()
        if end != "claimed":
            scene.committed(turn, dead_reason="attempts_exhausted" if end == "dead" else None)
    assert scene.batch(first.id)[0] == end

    assert queue.enqueue(draft(source_key="k")) == Enqueued(first.id, SESSION, created=False)


@pytest.mark.raises_code("unknown_agent")
def test_an_unknown_agent_is_refused_with_the_known_ones(scene: Scene, queue: SqlInputQueue) -> None:
    before = scene.everything()
    with pytest.raises(UnknownAgent) as refused:
        queue.enqueue(draft(agent="nobody", blobs=(Blob(blob_ref(PICTURE), PICTURE),)))
    assert refused.value.args == ("nobody", ("sales", "support"))
    assert refused.value.field == "agent"
    assert scene.everything() == before


def test_before_any_worker_has_registered_nothing_is_stored(scene: Scene) -> None:
    with pytest.raises(NoWorkerHasRegistered, match="support"):
        SqlInputQueue(scene.database).enqueue(draft())
    assert scene.count(tables.batches) == 0


@pytest.mark.raises_code("session_deleted")
def test_a_deleted_session_takes_nothing(scene: Scene, queue: SqlInputQueue) -> None:
    queue.enqueue(draft(source_key="k"))
    SqlSessionStore(scene.database).delete(SESSION)
    before = scene.everything()

    for refused in (draft(), draft(source_key="k"), draft(agent="nobody")):
        with pytest.raises(SessionDeleted, match=SESSION):
            queue.enqueue(refused)
        with pytest.raises(SessionDeleted):
            queue.enqueue(refused, reject_if_busy=True)

    assert scene.everything() == before
    assert queue.enqueue(draft(OTHER_SESSION)).created


# ---------------------------------------------------------------- reject


def test_reject_lets_an_idle_session_take_the_input(scene: Scene, queue: SqlInputQueue) -> None:
    assert queue.enqueue(draft(), reject_if_busy=True).created
    scene.committed(scene.open())
    assert queue.enqueue(draft(), reject_if_busy=True).created


@pytest.mark.raises_code("session_execution_busy")
def test_reject_refuses_while_an_input_waits_or_a_turn_is_unfinished(scene: Scene, queue: SqlInputQueue) -> None:
    queue.enqueue(draft())
    before = scene.everything()
    with pytest.raises(SessionBusy, match=f"{SESSION}.*; send again later or with when='queue'"):
        queue.enqueue(draft(), reject_if_busy=True)
    assert scene.everything() == before

    turn = scene.open()
    with pytest.raises(SessionBusy):
        queue.enqueue(draft(), reject_if_busy=True)
    assert scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)
    with pytest.raises(SessionBusy):
        queue.enqueue(draft(), reject_if_busy=True)

    assert queue.enqueue(draft(OTHER_SESSION), reject_if_busy=True).created


def test_reject_counts_an_input_that_is_delayed(scene: Scene, queue: SqlInputQueue) -> None:
    queue.enqueue(draft(available_at_ms=scene.clock.now_ms() + 60_000))
    with pytest.raises(SessionBusy):
        queue.enqueue(draft(), reject_if_busy=True)


def test_reject_answers_a_known_key_also_when_busy(scene: Scene, queue: SqlInputQueue) -> None:
    first = draft(source_key="k")
    assert queue.enqueue(first, reject_if_busy=True).created
    scene.open()

    assert queue.enqueue(draft(source_key="k"), reject_if_busy=True) == Enqueued(first.id, SESSION, created=False)
    with pytest.raises(IdempotencyConflict):
        queue.enqueue(draft(words="another", source_key="k"), reject_if_busy=True)


# ---------------------------------------------------------------- find, waiting


def test_find_knows_a_batch_by_id_and_by_key_in_its_own_session_only(queue: SqlInputQueue) -> None:
    sent = draft(source_key="k")
    queue.enqueue(sent)
    by_id, by_key = queue.find(SESSION, batch_id=sent.id), queue.find(SESSION, source_key="k")
    assert by_id is not None
    assert by_id == by_key
    assert queue.find(OTHER_SESSION, batch_id=sent.id) is None
    assert queue.find(OTHER_SESSION, source_key="k") is None
    assert queue.find(SESSION, batch_id=BatchId("nothing")) is None


def test_find_shows_what_has_become_of_a_batch(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft()
    queue.enqueue(sent)
    turn = scene.open()
    scene.committed(turn)
    found = queue.find(SESSION, batch_id=sent.id)
    assert found is not None
    assert (found.state, found.turn_id) == (BatchState.CONSUMED, turn.intent.turn_id)


def test_waiting_lists_claimed_then_available_then_delayed(scene: Scene, queue: SqlInputQueue) -> None:
    now = scene.clock.now_ms()
    much_later = draft(available_at_ms=now + 60_000)
    later = draft(available_at_ms=now + 30_000)
    running, first, second = draft(), draft(), draft()
    elsewhere = draft(OTHER_SESSION)
    cancelled = draft()
    for sent in (much_later, later, running, first, elsewhere, second, cancelled):
        queue.enqueue(sent)
    queue.cancel(SESSION, cancelled.id)
    assert scene.open().intent.batch_ids == (running.id,)

    expected = [running.id, first.id, second.id, later.id, much_later.id]
    assert [batch.id for batch in queue.waiting(SESSION)] == expected
    assert [batch.id for batch in queue.waiting(SESSION, limit=2)] == expected[:2]
    assert {batch.id for batch in queue.waiting()} == {*expected, elsewhere.id}

    scene.clock.advance(60)
    assert [batch.id for batch in queue.waiting(SESSION)] == [running.id, much_later.id, later.id, first.id, second.id]


# ---------------------------------------------------------------- cancel


def test_a_ready_input_can_be_cancelled_and_stays_to_be_asked_about(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft(source_key="k")
    queue.enqueue(sent)

    assert queue.cancel(SESSION, sent.id) == Cancellation(CancelVerdict.CANCELLED, sent.id)

    found = queue.find(SESSION, source_key="k")
    assert found is not None
    assert (found.state, found.turn_id) == (BatchState.CANCELLED, None)
    [row] = scene.rows(tables.batches)
    assert row["ended_at_ms"] == scene.clock.now_ms()
    assert queue.waiting(SESSION) == []
    assert queue.cancel(SESSION, sent.id) == Cancellation(CancelVerdict.ENDED, sent.id)


def test_an_input_that_a_turn_has_taken_is_not_cancelled(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft()
    queue.enqueue(sent)
    turn = scene.open()
    before = scene.everything()

    assert queue.cancel(SESSION, sent.id) == Cancellation(CancelVerdict.TAKEN, sent.id, turn.intent.turn_id)
    assert scene.everything() == before

    scene.committed(turn)
    assert queue.cancel(SESSION, sent.id) == Cancellation(CancelVerdict.ENDED, sent.id, turn.intent.turn_id)


def test_only_what_is_there_can_be_cancelled(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft()
    queue.enqueue(sent)
    assert queue.cancel(SESSION, BatchId("nothing")) is None
    assert queue.cancel(OTHER_SESSION, sent.id) is None
    assert scene.batch(sent.id) == (BatchState.READY, None)


# ---------------------------------------------------------------- dead letters


def kill(scene: Scene, queue: SqlInputQueue, session_id: SessionId = SESSION, reason: str = "poison") -> BatchId:
    """An input that ended as a dead letter."""
    sent = draft(session_id, early=True, exclusive=False, merge_key="chat", source_key=f"key of {reason}")
    queue.enqueue(sent)
    turn = scene.open(session_id=session_id)
    scene.committed(turn, dead_reason=reason)
    return sent.id


def test_dead_letters_are_listed_newest_first(scene: Scene, queue: SqlInputQueue) -> None:
    old = kill(scene, queue, reason="old")
    scene.clock.advance(1)
    elsewhere = kill(scene, queue, OTHER_SESSION, reason="elsewhere")
    scene.clock.advance(1)
    new = kill(scene, queue, reason="new")

    assert [letter.batch_id for letter in queue.dead()] == [new, elsewhere, old]
    assert [letter.batch_id for letter in queue.dead(limit=1)] == [new]
    newest, oldest = queue.dead(SESSION)
    turn_id = scene.batch(new)[1]
    assert newest == DeadLetter(new, SESSION, TurnId(str(turn_id)), "new", scene.clock.now_ms())
    assert (oldest.batch_id, oldest.reason) == (old, "old")


def test_a_replay_is_a_new_input_with_the_old_words(scene: Scene, queue: SqlInputQueue) -> None:
    dead = kill(scene, queue)
    scene.clock.advance(5)

    assert queue.replay(dead, NEW_ID) == Enqueued(NEW_ID, SESSION, created=True)

    old, new = queue.find(SESSION, batch_id=dead), queue.find(SESSION, batch_id=NEW_ID)
    assert old is not None
    assert new is not None
    assert (new.state, new.turn_id, new.source_key, new.replay_of) == (BatchState.READY, None, None, dead)
    assert (new.payload, new.agent, new.early, new.exclusive, new.merge_key) == (
        old.payload,
        old.agent,
        old.early,
        old.exclusive,
        old.merge_key,
    )
    assert new.available_at_ms == new.enqueued_at_ms == scene.clock.now_ms()
    assert old.state == BatchState.DEAD
    assert queue.dead()[0].replayed_as == NEW_ID
    assert scene.open().intent.batch_ids == (NEW_ID,)


def test_a_second_replay_answers_with_the_first_also_after_it_has_run(scene: Scene, queue: SqlInputQueue) -> None:
    dead = kill(scene, queue)
    queue.replay(dead, NEW_ID)
    assert queue.replay(dead, BatchId("replay-2")) == Enqueued(NEW_ID, SESSION, created=False)
    scene.committed(scene.open())
    before = scene.everything()
    assert queue.replay(dead, BatchId("replay-2")) == Enqueued(NEW_ID, SESSION, created=False)
    assert scene.everything() == before


def test_only_a_dead_letter_can_be_replayed(scene: Scene, queue: SqlInputQueue) -> None:
    sent = draft()
    queue.enqueue(sent)
    before = scene.everything()
    assert queue.replay(sent.id, NEW_ID) is None
    assert queue.replay(BatchId("nothing"), NEW_ID) is None
    scene.committed(scene.open())
    assert queue.replay(sent.id, NEW_ID) is None
    assert len(scene.everything()["lash_batches"]) == len(before["lash_batches"])


def test_a_replay_into_a_session_that_is_being_deleted_is_refused(scene: Scene, queue: SqlInputQueue) -> None:
    dead = kill(scene, queue)
    with scene.database.transaction() as connection:
        connection.execute(tables.sessions.update().values(deleted_at_ms=1))
    with pytest.raises(SessionDeleted, match=SESSION):
        queue.replay(dead, NEW_ID)


def test_after_a_deletion_there_is_nothing_to_replay(scene: Scene, queue: SqlInputQueue) -> None:
    dead = kill(scene, queue)
    SqlSessionStore(scene.database).delete(SESSION)
    assert queue.replay(dead, NEW_ID) is None
    assert queue.dead() == []
