"""The cases of the durable queue, told with our verbs: a claim is the turn's for good, and a fence guards it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import BatchId, SessionId, WorkerId, queue_turn_id
from lash_tasks.domain.queue import BatchKind, BatchState, Cancellation, CancelVerdict
from lash_tasks.domain.wakes import QueuedWake
from lash_tasks.errors import IdempotencyConflict
from lash_tasks.stores.protocols import CheckpointRefused, CheckpointTaken, CommitRefused, NotOpened, OpenedTurn
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.queue import SqlInputQueue
from tests.conformance.arrange import ALICE, BOB, SESSION, SUPPORT, WORKER_TTL_MS, Scene, begun, node
from tests.conformance.inputs import OTHER_SESSION, draft, serve

MERGING: dict[str, Any] = {"exclusive": False, "merge_key": "m"}
WAKE = QueuedWake(agent="support", process_id="p", event_type="done", sequence=1, wake_id="w", text="ready")
RACES = 200


@pytest.fixture
def queue(scene: Scene) -> SqlInputQueue:
    serve(scene.database)
    return SqlInputQueue(scene.database)


@pytest.fixture
def reopened(scene: Scene, database_url: str) -> Iterator[Database]:
    """The database as it is found after a restart; what is in memory does not survive one."""
    if database_url == "sqlite://":
        yield scene.database
        return
    database = Database.open(database_url, now_ms=scene.clock.now_ms)
    yield database
    database.close()


def ids(turn: OpenedTurn) -> list[BatchId]:
    return [batch.id for batch in turn.batches]


def joined(taken: CheckpointTaken | CheckpointRefused) -> list[BatchId]:
    return [batch.id for batch in taken.batches] if isinstance(taken, CheckpointTaken) else []


def waiting(queue: SqlInputQueue, session_id: SessionId = SESSION) -> list[tuple[BatchId, BatchState]]:
    return [(batch.id, batch.state) for batch in queue.waiting(session_id)]


# ---------------------------------------------------------------- what is stored


@pytest.mark.shows("Q1")
def test_a_key_sent_twice_is_one_batch_and_the_first_payload_stays(scene: Scene, queue: SqlInputQueue) -> None:
    first = draft(source_key="k", words="order 12")
    assert queue.enqueue(first).created
    assert queue.enqueue(draft(source_key="k", words="order 12")).id == first.id
    with pytest.raises(IdempotencyConflict):
        queue.enqueue(draft(source_key="k", words="order 13"))
    [row] = scene.rows(tables.batches)
    assert (row["id"], bytes(row["payload"])) == (first.id, first.payload)


@pytest.mark.shows("Q2", "Q13")
def test_batches_are_listed_in_order_by_session_and_outlive_the_process(
    queue: SqlInputQueue, reopened: Database
) -> None:
    ours = [draft(words=word) for word in "abc"]
    for number, one in enumerate(ours):
        queue.enqueue(one)
        queue.enqueue(draft(OTHER_SESSION, words=f"theirs {number}"))
    found = SqlInputQueue(reopened).waiting(SESSION)
    assert [(batch.id, batch.payload) for batch in found] == [(one.id, one.payload) for one in ours]
    assert [batch.seq for batch in found] == sorted(batch.seq for batch in found)


@pytest.mark.shows("Q3")
def test_only_what_nobody_has_claimed_is_cancelled_and_a_claim_is_ended_with_its_turn(
    scene: Scene, queue: SqlInputQueue
) -> None:
    """A claim is never given back: who gives a turn up leaves it to the next, so the turn is what can be cancelled."""
    unclaimed = scene.send()
    assert queue.cancel(SESSION, unclaimed) == Cancellation(CancelVerdict.CANCELLED, unclaimed)
    assert waiting(queue) == []
    claimed = scene.send()
    turn = scene.open()
    taken = Cancellation(CancelVerdict.TAKEN, claimed, turn.intent.turn_id)
    assert queue.cancel(SESSION, claimed) == taken
    assert waiting(queue) == [(claimed, BatchState.CLAIMED)]
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)
    assert queue.cancel(SESSION, claimed) == taken
    assert scene.store.request_cancel(SESSION, turn.intent.turn_id, "not needed")
    assert scene.open().cancel


# ---------------------------------------------------------------- what is claimed


@pytest.mark.shows("Q4")
def test_nobody_can_take_what_is_second_in_line(scene: Scene, queue: SqlInputQueue) -> None:
    """There is no verb that names what to claim; who can only do the second gets nothing, and nothing is moved."""
    first, second = scene.send(agent="sales"), scene.send(agent="support")
    before = scene.everything()
    assert scene.try_open(agents=SUPPORT) is NotOpened.HELD
    assert scene.everything() == before
    assert waiting(queue) == [(first, BatchState.READY), (second, BatchState.READY)]
    assert ids(scene.open(agents={**SUPPORT, "sales": "ref"})) == [first]
    assert waiting(queue) == [(first, BatchState.CLAIMED), (second, BatchState.READY)]


@pytest.mark.shows("Q5")
def test_input_for_after_the_turn_hides_early_input_behind_it_until_it_is_claimed(scene: Scene) -> None:
    scene.send("running")
    turn = scene.open()
    after = scene.send()
    early = scene.inject()
    assert scene.checkpoint(turn) is CheckpointRefused.EMPTY
    scene.committed(turn)
    following = scene.open()
    assert ids(following) == [after]
    assert joined(scene.checkpoint(following)) == [early]


@pytest.mark.shows("Q6", "K7")
def test_what_was_given_up_is_claimed_again_by_the_same_turn_under_a_higher_fence(scene: Scene) -> None:
    batch = scene.send()
    first = scene.open(ALICE)
    scene.store.give_up(SESSION, first.intent.turn_id, first.fence, crashed=False)
    again = scene.open(BOB)
    assert ids(again) == [batch]
    assert again.intent.turn_id == first.intent.turn_id == queue_turn_id([batch])
    assert again.fence > first.fence


@pytest.mark.shows("Q7")
def test_a_batch_of_the_future_is_skipped_until_its_very_moment(scene: Scene) -> None:
    soon = scene.send(available_at_ms=scene.clock.now_ms() + 1000)
    scene.send(available_at_ms=4_102_444_800_000)  # the year 2100
    now = scene.send()
    turn = scene.open()
    assert ids(turn) == [now]
    scene.committed(turn)
    scene.clock.advance(0.999)
    assert scene.try_open() is NotOpened.NOTHING
    scene.clock.advance(0.001)
    assert ids(scene.open()) == [soon]


@pytest.mark.shows("Q8")
def test_an_exclusive_batch_is_claimed_alone_and_what_may_join_after_it(scene: Scene) -> None:
    alone = scene.send()
    together = [scene.send(**MERGING), scene.send(**MERGING)]
    turn = scene.open()
    assert ids(turn) == [alone]
    scene.committed(turn)
    assert ids(scene.open()) == together


@pytest.mark.shows("Q9")
def test_a_claim_takes_no_more_than_its_maximum(scene: Scene) -> None:
    scene.send("running")
    turn = scene.open()
    three = [scene.inject() for _ in range(3)]
    assert scene.checkpoint(turn, "none", limit=0) is CheckpointRefused.EMPTY
    assert joined(scene.checkpoint(turn, "first", limit=2)) == three[:2]
    assert joined(scene.checkpoint(turn, "second", limit=2)) == three[2:]


@pytest.mark.shows("Q10")
def test_a_run_ends_where_the_group_or_the_boundary_changes(scene: Scene) -> None:
    early: dict[str, Any] = {"early": True, "exclusive": False}
    inputs = [
        scene.send(merge_key="a", **early),
        scene.send(merge_key="a", **early),
        scene.send(merge_key="b", **early),
        scene.send(merge_key="a", exclusive=False),
    ]
    claims = []
    for _ in range(3):
        turn = scene.open()
        claims.append(ids(turn))
        scene.committed(turn)
    assert claims == [inputs[:2], inputs[2:3], inputs[3:]]


@pytest.mark.shows("Q11")
def test_what_never_merges_is_claimed_alone_and_kinds_do_not_mix(scene: Scene) -> None:
    scene.send("running")
    turn = scene.open()
    never = [scene.inject(merge_key=None) for _ in range(2)]
    steers = [scene.inject() for _ in range(2)]
    wake = scene.inject()
    with scene.database.transaction() as connection:
        of_process = {"kind": BatchKind.WAKE.value, "payload": encode(QueuedWake, WAKE)}
        connection.execute(update(tables.batches).where(tables.batches.c.id == wake).values(of_process))
    for number, expected in enumerate([never[:1], never[1:], steers, [wake]]):
        assert joined(scene.checkpoint(turn, f"checkpoint-{number}")) == expected


@pytest.mark.shows("Q13")
def test_a_claim_never_mixes_sessions(scene: Scene) -> None:
    ours, theirs = scene.send(**MERGING), scene.send(session_id=OTHER_SESSION, **MERGING)
    assert ids(scene.open()) == [ours]
    assert scene.batch(theirs) == (BatchState.READY, None)


@pytest.mark.shows("Q14")
def test_of_two_connections_that_race_for_a_batch_one_claims_it_and_can_go_on(scene: Scene, reopened: Database) -> None:
    other = Scene(reopened, scene.clock)
    scene.beat(ALICE)
    scene.beat(BOB)
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES):
            session_id = SessionId(f"session-{number}")
            scene.send(session_id=session_id)
            together = threading.Barrier(2)

            def opening(by: Scene, worker: WorkerId, session_id: SessionId = session_id) -> OpenedTurn | NotOpened:
                together.wait(10)  # noqa: B023 - the round ends before the next barrier is made
                return by.try_open(worker, session_id=session_id)

            results = [pool.submit(opening, scene, ALICE), pool.submit(opening, other, BOB)]
            [winner] = [one for one in (result.result(20) for result in results) if isinstance(one, OpenedTurn)]
            assert scene.record(winner) == "recorded"


# ---------------------------------------------------------------- how a claim ends


@pytest.mark.shows("Q12")
def test_who_lost_a_claim_can_neither_use_nor_end_nor_give_it_back(scene: Scene) -> None:
    batch = scene.send()
    old = scene.open(ALICE)
    scene.clock.advance(WORKER_TTL_MS / 1000 + 1)
    new = scene.open(BOB)
    assert new.fence > old.fence
    before = scene.everything()
    [reply] = scene.store.record([begun(old)])
    assert reply.verdict == "fenced"
    assert scene.checkpoint(old) is CheckpointRefused.FENCED
    assert scene.commit(old) is CommitRefused.FENCED
    assert not scene.store.give_up(SESSION, old.intent.turn_id, old.fence, crashed=False)
    assert scene.everything() == before
    scene.committed(new)
    assert scene.batch(batch) == (BatchState.CONSUMED, new.intent.turn_id)


@pytest.mark.shows("Q15")
def test_a_commit_with_a_stale_claim_writes_nothing_and_with_the_right_one_the_batch_is_gone(
    scene: Scene, queue: SqlInputQueue
) -> None:
    batch = scene.send()
    turn = scene.open()
    before = scene.everything()
    stale = scene.commit(turn, fence=turn.fence - 1, nodes=(node(1),))
    assert (stale, scene.everything()) == (CommitRefused.FENCED, before)
    mistaken = scene.commit(turn, batch_ids=(), nodes=(node(1),))
    assert not hasattr(mistaken, "revision")
    assert scene.everything() == before
    assert waiting(queue) == [(batch, BatchState.CLAIMED)]
    scene.committed(turn, nodes=(node(1),))
    assert waiting(queue) == []


@pytest.mark.shows("Q16")
def test_a_commit_cannot_consume_another_sessions_batch(scene: Scene) -> None:
    theirs = scene.send(session_id=OTHER_SESSION)
    scene.open(session_id=OTHER_SESSION)
    scene.send()
    turn = scene.open()
    before = scene.everything()
    refused = scene.commit(turn, batch_ids=(*turn.intent.batch_ids, theirs))
    assert not hasattr(refused, "revision")
    assert scene.everything() == before


@pytest.mark.shows("Q17")
def test_a_claim_that_nobody_took_over_completes_however_late(scene: Scene) -> None:
    batch = scene.send()
    turn = scene.open()
    scene.clock.advance(WORKER_TTL_MS)
    scene.committed(turn)
    assert scene.batch(batch) == (BatchState.CONSUMED, turn.intent.turn_id)


@pytest.mark.shows("Q19")
def test_a_key_whose_batch_was_consumed_gives_its_receipt_and_no_new_batch(scene: Scene, queue: SqlInputQueue) -> None:
    first = draft(source_key="k")
    queue.enqueue(first)
    scene.committed(scene.open())
    again = queue.enqueue(draft(source_key="k"))
    assert (again.id, again.created) == (first.id, False)
    assert scene.batch(first.id)[0] is BatchState.CONSUMED
    assert scene.count(tables.batches) == 1


@pytest.mark.shows("K7")
def test_two_drains_have_turns_of_their_own(scene: Scene) -> None:
    turns = []
    for _ in range(2):
        batch = scene.send()
        turn = scene.open()
        assert turn.intent.turn_id == queue_turn_id([batch])
        turns.append(turn.intent.turn_id)
        scene.committed(turn)
    assert len(set(turns)) == 2
