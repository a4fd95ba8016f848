"""TurnStore with two at once: what waits for a lock decides on what it finds after the wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import BlobRef, MessageId, NodeId, ReplayKey, SessionId, WorkerId, queue_turn_id
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.journal import RecordVerdict
from lash_tasks.domain.messages import ImagePart, Message, Role, TextPart
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.sessions import Node
from lash_tasks.domain.turns import TurnStatus
from lash_tasks.domain.usage import TokenUsage, UsageEntry
from lash_tasks.stores.protocols import CheckpointRefused, CommitRefused, Committed, NotOpened, OpenedTurn
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import ALICE, BOB, NO_CONTEXT, SESSION, SUPPORT, Scene, journal_row, node
from tests.services import wait_until

Result = TypeVar("Result")
SCOPE = f"session:{SESSION}"


class RolledBack(Exception):
    """Ends a transaction of a test without its commit."""


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Threads for what happens beside the test."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def other(scene: Scene, database_url: str) -> Iterator[Scene]:
    """The same database as another process has it; in memory there is no other process."""
    if database_url == "sqlite://":
        yield Scene(scene.database, scene.clock)
        return
    database = Database.open(database_url, now_ms=scene.clock.now_ms)
    yield Scene(database, scene.clock)
    database.close()


def lock_fence(connection: Connection) -> None:
    """Hold the session's fence until the transaction ends, whether or not its row is there yet."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(tables.fences).values(scope=SCOPE).on_conflict_do_nothing())
    connection.execute(select(tables.fences).where(tables.fences.c.scope == SCOPE).with_for_update(key_share=True))


def take_over(connection: Connection, worker: WorkerId = BOB) -> None:
    """What an opening by `worker` writes, up to its commit."""
    lock_fence(connection)
    connection.execute(update(tables.fences).values(fence=tables.fences.c.fence + 1))
    connection.execute(update(tables.turns).values(fence=tables.turns.c.fence + 1, holder=worker))


def while_it_waits(scene: Scene, beside: ThreadPoolExecutor, action: Callable[[], Result]) -> Future[Result]:
    """Start `action` and return when it stands in a queue. SQLite shows no queue; there the answer must hold anyway."""
    began = threading.Event()

    def run() -> Result:
        began.set()
        return action()

    future = beside.submit(run)
    assert began.wait(10)
    if scene.database.dialect == "postgresql":
        wait_until(lambda: future.done() or lock_waits(scene), 10, "the statement to wait for a lock")
        assert not future.done(), f"it did not wait: {future}"
    return future


def lock_waits(scene: Scene) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with scene.database.reading() as connection:
        waiting: int = connection.execute(text(query)).scalar_one()
    return waiting


# ---------------------------------------------------------------- behind a take-over


def test_a_record_that_waited_behind_a_take_over_is_fenced(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    with scene.database.transaction() as connection:
        take_over(connection)
        late = while_it_waits(scene, beside, lambda: scene.record(turn))

    assert late.result(10) == RecordVerdict.FENCED
    assert scene.open(BOB).journal == ()


@pytest.mark.shows("L9", "L15")
def test_a_checkpoint_that_waited_behind_a_take_over_is_fenced(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    waiting = scene.inject()
    with scene.database.transaction() as connection:
        take_over(connection)
        late = while_it_waits(scene, beside, lambda: scene.checkpoint(turn))

    assert late.result(10) is CheckpointRefused.FENCED
    assert scene.batch(waiting) == (BatchState.READY, None)
    assert scene.open(BOB).journal == ()


def test_a_commit_that_waited_behind_a_take_over_is_fenced(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    with scene.database.transaction() as connection:
        take_over(connection)
        late = while_it_waits(scene, beside, lambda: scene.commit(turn, nodes=(node(1),)))

    assert late.result(10) is CommitRefused.FENCED
    assert scene.count(tables.nodes) == 0
    assert [row["status"] for row in scene.rows(tables.turns)] == [TurnStatus.RUNNING]


def test_a_giving_up_that_waited_behind_a_take_over_changes_nothing(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    with scene.database.transaction() as connection:
        take_over(connection)
        late = while_it_waits(
            scene, beside, lambda: scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)
        )

    assert late.result(10) is False
    assert [row["holder"] for row in scene.rows(tables.turns)] == [BOB]


def test_an_opening_that_waited_behind_a_take_over_respects_the_new_holder(
    scene: Scene, beside: ThreadPoolExecutor
) -> None:
    scene.send()
    scene.open(ALICE)
    scene.beat(BOB)
    with scene.database.transaction() as connection:
        take_over(connection, BOB)
        late = while_it_waits(scene, beside, lambda: scene.try_open(WorkerId("carol")))

    assert late.result(10) is NotOpened.HOLDER_LIVES
    assert scene.fence() == 2


# ---------------------------------------------------------------- what the holder of the lock wrote is seen


@pytest.mark.parametrize("fence_is_there", [True, False])
def test_an_opening_sees_the_input_that_the_holder_of_the_fence_committed(
    scene: Scene, beside: ThreadPoolExecutor, fence_is_there: bool
) -> None:
    if fence_is_there:
        with scene.database.transaction() as connection:
            connection.execute(insert(tables.fences).values(scope=SCOPE))
    with scene.database.transaction() as connection:
        lock_fence(connection)
        connection.execute(insert(tables.batches).values(batch_row("late")))
        opening = while_it_waits(scene, beside, lambda: scene.try_open(ALICE))

    opened = opening.result(10)
    assert isinstance(opened, OpenedTurn)
    assert opened.intent.batch_ids == ("late",)


def test_a_take_over_that_waited_for_a_record_finds_it(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    scene.open(BOB)
    row = {
        "scope": f"{SCOPE}/{turn.intent.turn_id}",
        "replay_key": "call-1",
        "ordinal": 0,
        "fence": 2,
        "state": "done",
        "envelope": b"{}",
        "outcome": b"answer",
    }
    with scene.database.transaction() as connection:
        connection.execute(select(tables.fences).with_for_update(read=True))
        connection.execute(insert(tables.effects).values(row))
        opening = while_it_waits(scene, beside, lambda: scene.open(ALICE))

    opened = opening.result(10)
    assert [effect.replay_key for effect in opened.journal] == ["call-1"]
    assert opened.attempt == 1, "the record is progress"


def test_an_opening_that_waited_for_a_commit_builds_on_it(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send("first")
    turn = scene.open(ALICE)
    scene.send("second")
    with scene.database.transaction() as connection:
        lock_fence(connection)
        connection.execute(update(tables.sessions).values(head_revision=1, turn_index=1))
        connection.execute(update(tables.turns).values(status="committed", stamp="stamp-1", holder=None))
        connection.execute(update(tables.batches).where(tables.batches.c.id == "first").values(state="consumed"))
        opening = while_it_waits(scene, beside, lambda: scene.open(BOB))

    opened = opening.result(10)
    assert opened.intent.batch_ids == ("second",)
    assert (opened.intent.turn_index, opened.intent.base_revision) == (2, 1)
    assert opened.intent.turn_id != turn.intent.turn_id


# ---------------------------------------------------------------- a cancel of the input, under way


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_opening_takes_an_input_or_leaves_it_to_its_cancel(
    scene: Scene, beside: ThreadPoolExecutor, cancelled: bool
) -> None:
    batch_id = scene.send()
    with suppress(RolledBack), scene.database.transaction() as connection:
        connection.execute(update(tables.batches).values(state="cancelled"))
        opening = while_it_waits(scene, beside, lambda: scene.try_open(ALICE))
        if not cancelled:
            raise RolledBack

    if cancelled:
        assert opening.result(10) is NotOpened.NOTHING
        assert scene.batch(batch_id) == (BatchState.CANCELLED, None)
        assert scene.fence() == 0
    else:
        assert isinstance(opening.result(10), OpenedTurn)


def test_a_turn_is_named_after_the_inputs_that_it_got(scene: Scene, beside: ThreadPoolExecutor) -> None:
    first, second, third = (scene.send(exclusive=False, merge_key="g") for _ in range(3))
    with scene.database.transaction() as connection:
        connection.execute(update(tables.batches).where(tables.batches.c.id == second).values(state="cancelled"))
        opening = while_it_waits(scene, beside, lambda: scene.open(ALICE))

    opened = opening.result(10)
    assert opened.intent.batch_ids == (first, third)
    assert opened.intent.turn_id == queue_turn_id([first, third])
    assert [batch.id for batch in opened.batches] == [first, third]


def test_a_checkpoint_leaves_an_input_to_its_cancel(scene: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    batch_id = scene.inject()
    with scene.database.transaction() as connection:
        connection.execute(update(tables.batches).where(tables.batches.c.id == batch_id).values(state="cancelled"))
        checkpoint = while_it_waits(scene, beside, lambda: scene.checkpoint(turn))

    assert checkpoint.result(10) is CheckpointRefused.EMPTY
    assert scene.batch(batch_id) == (BatchState.CANCELLED, None)
    assert scene.open(BOB).journal == ()


# ---------------------------------------------------------------- many at once


def test_of_two_first_openings_one_wins(scene: Scene, other: Scene, beside: ThreadPoolExecutor) -> None:
    scene.beat(ALICE)
    scene.beat(BOB)
    for number in range(20):
        session_id = SessionId(f"session-{number}")
        scene.send(session_id=session_id)
        together = threading.Barrier(2)

        def opening(
            by: Scene, worker: WorkerId, session_id: SessionId = session_id, together: threading.Barrier = together
        ) -> OpenedTurn | NotOpened:
            together.wait(10)
            return by.try_open(worker, session_id=session_id)

        answers = [beside.submit(opening, scene, ALICE), beside.submit(opening, other, BOB)]
        results = [answer.result(20) for answer in answers]

        assert sum(isinstance(result, OpenedTurn) for result in results) == 1, results
        assert results.count(NotOpened.HOLDER_LIVES) == 1, results
        assert scene.fence(session_id) == 1


def test_of_two_records_of_one_effect_the_first_wins(scene: Scene, other: Scene, beside: ThreadPoolExecutor) -> None:
    scene.send()
    turn = scene.open(ALICE)
    for number in range(20):
        together = threading.Barrier(2)

        def recording(by: Scene, outcome: bytes, key: str, together: threading.Barrier = together) -> str:
            together.wait(10)
            return by.record(turn, key, outcome=outcome)

        key = f"call-{number:02}"
        answers = [beside.submit(recording, scene, b"0", key), beside.submit(recording, other, b"1", key)]
        verdicts = [answer.result(20) for answer in answers]

        assert sorted(verdicts) == [RecordVerdict.EXISTS, RecordVerdict.RECORDED]
        winner = str(verdicts.index(RecordVerdict.RECORDED)).encode()
        assert {row["replay_key"]: row["outcome"] for row in scene.rows(tables.effects)}[key] == winner


def test_two_writers_of_many_turns_do_not_stop_each_other(
    scene: Scene, other: Scene, beside: ThreadPoolExecutor
) -> None:
    turns = []
    for number in range(12):
        session_id = SessionId(f"session-{number}")
        scene.send(session_id=session_id)
        turns.append(scene.open(ALICE, session_id=session_id))

    def writing(by: Scene, name: str, ordered: list[OpenedTurn]) -> set[RecordVerdict]:
        return {
            reply.verdict
            for flush in range(10)
            for reply in by.store.record([journal_row(turn, f"{name}-{flush}") for turn in ordered])
        }

    forwards = beside.submit(writing, scene, "forwards", turns)
    backwards = beside.submit(writing, other, "backwards", turns[::-1])

    assert forwards.result(30) == backwards.result(30) == {RecordVerdict.RECORDED}
    assert scene.count(tables.effects) == 2 * 10 * 12


def test_of_many_rows_only_that_of_a_locked_session_is_left_out(scene: Scene, beside: ThreadPoolExecutor) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    scene.send()
    scene.send(session_id=SessionId("another"))
    turns = [scene.open(ALICE), scene.open(ALICE, session_id=SessionId("another"))]
    with scene.database.transaction() as connection:
        lock_fence(connection)
        replies = beside.submit(scene.store.record, [journal_row(turn, "one") for turn in turns]).result(10)
        assert [reply.verdict for reply in replies] == [RecordVerdict.LOCKED, RecordVerdict.RECORDED]

    again = scene.store.record([journal_row(turn, "one") for turn in turns])
    assert [reply.verdict for reply in again] == [RecordVerdict.RECORDED, RecordVerdict.EXISTS]


def test_a_single_row_that_may_not_wait_does_not(scene: Scene, beside: ThreadPoolExecutor) -> None:
    """While it waited others stood behind it: one locked session kept up all turns of its worker."""
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    scene.send()
    row = journal_row(scene.open(ALICE), "one")
    with scene.database.transaction() as connection:
        lock_fence(connection)
        [reply] = beside.submit(scene.store.record, [row], wait=False).result(5)
    assert reply.verdict is RecordVerdict.LOCKED
    assert [reply.verdict for reply in scene.store.record([row], wait=False)] == [RecordVerdict.RECORDED]


@pytest.mark.shows("T4")
def test_of_many_commits_of_one_turn_one_lands(scene: Scene, other: Scene, beside: ThreadPoolExecutor) -> None:
    for number in range(1, 6):
        scene.send()
        turn = scene.open(ALICE)
        together = threading.Barrier(4)

        def committing(
            by: Scene, turn: OpenedTurn = turn, together: threading.Barrier = together, number: int = number
        ) -> Committed | CommitRefused:
            together.wait(10)
            return by.commit(turn, nodes=(node(number),), stamp=f"stamp-{number}")

        answers = [beside.submit(committing, by) for by in (scene, other, scene, other)]
        results = [answer.result(20) for answer in answers]

        assert results.count(CommitRefused.ALREADY) == 3, results
        assert [result.revision for result in results if isinstance(result, Committed)] == [number]


@pytest.mark.shows("T4")
def test_of_two_writers_with_other_content_under_one_fence_one_wins(
    scene: Scene, other: Scene, beside: ThreadPoolExecutor
) -> None:
    """The fence is forged: no lease and no holder stands between the two."""
    for number in range(1, 11):
        scene.send()
        turn = scene.open(ALICE)
        together = threading.Barrier(2)

        def committing(
            by: Scene, name: str, turn: OpenedTurn = turn, together: threading.Barrier = together
        ) -> Committed | CommitRefused:
            together.wait(10)
            return by.commit(turn, nodes=(node(turn.intent.turn_index, name),), stamp=name)

        answers = [beside.submit(committing, by, name) for by, name in ((scene, "one"), (other, "another"))]
        results = [answer.result(20) for answer in answers]

        assert results.count(CommitRefused.TURN_CONFLICT) == 1, results
        assert [result.revision for result in results if isinstance(result, Committed)] == [number]
        winner = ["one", "another"][results.index(CommitRefused.TURN_CONFLICT) - 1]
        [left] = [row for row in scene.rows(tables.turns) if row["turn_id"] == turn.intent.turn_id]
        assert left["stamp"] == winner
        assert sum(row["revision"] == number for row in scene.rows(tables.nodes)) == 1


# Each turn raises its session's fence twice: when it is opened and when it is committed.
WHAT_A_COMMIT_LEAVES = """
SELECT
  (SELECT count(*) FROM lash_nodes) / 2 AS nodes,
  (SELECT count(*) FROM lash_usage) AS usage,
  (SELECT count(*) FROM lash_attachments WHERE committed_at_ms IS NOT NULL) AS attachments,
  (SELECT coalesce(max(fence), 0) FROM lash_fences) / 2 AS closed_fences,
  (SELECT count(*) FROM lash_turns WHERE stamp IS NOT NULL) AS stamps,
  (SELECT count(*) FROM lash_turns WHERE status = 'committed' AND holder IS NULL) AS let_go,
  (SELECT count(*) FROM lash_batches WHERE state = 'consumed') AS consumed,
  (SELECT coalesce(max(head_revision), 0) FROM lash_sessions) AS revision"""


@pytest.mark.shows("T9")
def test_whoever_reads_beside_commits_sees_all_of_one_or_nothing(
    scene: Scene, other: Scene, beside: ThreadPoolExecutor
) -> None:
    commits = 25
    seen: set[tuple[int, ...]] = set()

    def reading() -> None:
        while max(seen, default=(0,))[0] < commits:
            with other.database.reading() as connection:
                seen.add(tuple(connection.execute(text(WHAT_A_COMMIT_LEAVES)).one()))

    reader = beside.submit(reading)
    for number in range(1, commits + 1):
        scene.send()
        turn = scene.open()
        used = UsageEntry(ReplayKey(f"call-{number}"), "turn", "m", TokenUsage(1, 1))
        picture = Message(MessageId(f"m{2 * number}"), Role.USER, (ImagePart(BlobRef(f"picture-{number}"), "", ""),))
        nodes = (Node(NodeId(picture.id), None, picture), node(2 * number + 1, parent=2 * number))
        scene.committed(turn, nodes=nodes, usage=(used,), stamp=f"stamp-{number}")

    reader.result(20)
    assert all(len(set(state)) == 1 for state in seen), seen


def test_inputs_sent_while_two_workers_open_are_each_taken_once_and_in_order(
    scene: Scene, other: Scene, beside: ThreadPoolExecutor
) -> None:
    inputs = 30
    scene.beat(ALICE)
    scene.beat(BOB)
    sent = beside.submit(lambda: [scene.send(f"input-{number:02}") for number in range(inputs)])

    def working(by: Scene, worker: WorkerId) -> None:
        while scene.count(tables.nodes) < inputs:
            opened = by.try_open(worker)
            if isinstance(opened, OpenedTurn):
                number = opened.intent.turn_index
                by.committed(opened, nodes=(node(number),), stamp=f"stamp-{number}")

    for worker in [beside.submit(working, scene, ALICE), beside.submit(working, other, BOB)]:
        worker.result(40)

    taken = sorted(scene.rows(tables.turns), key=lambda row: int(row["turn_index"]))
    assert [row["turn_id"] for row in taken] == [queue_turn_id([batch_id]) for batch_id in sent.result(1)]
    assert [row["turn_index"] for row in taken] == list(range(1, inputs + 1))
    assert {row["state"] for row in scene.rows(tables.batches)} == {BatchState.CONSUMED}


def test_a_sender_that_does_not_commit_stops_no_turn(scene: Scene) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    scene.send("first")
    scene.open(ALICE)
    with scene.database.transaction() as sender:
        sender.execute(insert(tables.batches).values(batch_row("uncommitted")))
        turn = scene.open(BOB)
        assert scene.record(turn) == RecordVerdict.RECORDED
        assert scene.checkpoint(turn) is CheckpointRefused.EMPTY
        assert not scene.committed(turn).more
        assert scene.try_open(BOB) is NotOpened.NOTHING

    assert scene.open(BOB).intent.batch_ids == ("uncommitted",)


def batch_row(batch_id: str) -> dict[str, object]:
    [agent] = SUPPORT
    return {
        "id": batch_id,
        "session_id": SESSION,
        "agent": agent,
        "input_digest": "",
        "context_digest": NO_CONTEXT,
        "early": False,
        "exclusive": True,
        "available_at_ms": 0,
        "enqueued_at_ms": 0,
        "payload": encode(QueuedInput, QueuedInput(agent, (TextPart("late"),))),
    }
