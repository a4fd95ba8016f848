"""`SessionStore`: what is committed, for reading, and the end of a session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select

from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import BatchId, ReplayKey, SessionId, TurnId
from lash_tasks.domain.journal import RecordVerdict
from lash_tasks.domain.sessions import SessionHead, StoredNode
from lash_tasks.domain.turns import (
    AssembledTurn,
    AssistantOutput,
    ExecutionSummary,
    OutputState,
    TurnRecord,
    TurnStatus,
    finished,
)
from lash_tasks.domain.usage import TokenUsage, UsageEntry, UsageTotal
from lash_tasks.errors import SessionDeleted
from lash_tasks.stores.protocols import CommitRefused, NotOpened, OpenedTurn
from lash_tasks.stores.sql import queue as queue_module
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene, begun, node
from tests.conformance.inputs import OTHER_SESSION, draft, serve, start_and_wait


@pytest.fixture
def sessions(scene: Scene) -> SqlSessionStore:
    serve(scene.database)
    return SqlSessionStore(scene.database)


def result_of(turn: OpenedTurn, text: str = "It shipped.") -> AssembledTurn:
    return AssembledTurn(
        session_id=turn.intent.session_id,
        turn_id=turn.intent.turn_id,
        turn_index=turn.intent.turn_index,
        status=TurnStatus.COMMITTED,
        outcome=finished(text),
        assistant_output=AssistantOutput(text, text, OutputState.USABLE),
        execution=ExecutionSummary(),
        token_usage=TokenUsage(3, 2),
        tool_calls=(),
        errors=(),
    )


def run_turn(scene: Scene, session_id: SessionId = SESSION, **changes: Any) -> OpenedTurn:
    """A whole turn, from its input to its commit."""
    scene.send(session_id=session_id)
    turn = scene.open(session_id=session_id)
    scene.committed(turn, result=encode(AssembledTurn, result_of(turn)), **changes)
    return turn


# ---------------------------------------------------------------- reading


def test_a_head_tells_where_a_session_stands(scene: Scene, sessions: SqlSessionStore) -> None:
    assert sessions.head(SESSION) is None
    began = scene.clock.now_ms()
    run_turn(scene)
    scene.clock.advance(1)
    run_turn(scene)
    assert sessions.head(SESSION) == SessionHead(SESSION, head_revision=2, turn_index=2, created_at_ms=began)


def test_sessions_are_listed_by_id_page_by_page_without_the_deleted(scene: Scene, sessions: SqlSessionStore) -> None:
    names = [SessionId(name) for name in ("s1", "s2", "s3", "s4")]
    for name in reversed(names):
        run_turn(scene, name)
    sessions.delete(names[1])
    assert [head.session_id for head in sessions.sessions()] == ["s1", "s3", "s4"]
    assert [head.session_id for head in sessions.sessions(limit=2)] == ["s1", "s3"]
    assert [head.session_id for head in sessions.sessions(after=SessionId("s1"), limit=2)] == ["s3", "s4"]
    assert sessions.sessions(after=SessionId("s4")) == []


def test_history_is_what_was_committed_oldest_first(scene: Scene, sessions: SqlSessionStore) -> None:
    run_turn(scene, nodes=(node(1, "hi"), node(2, "hello", parent=1)))
    run_turn(scene, nodes=(node(3, "bye", parent=2),))
    run_turn(scene, OTHER_SESSION, nodes=(node(1, "elsewhere"),))
    assert sessions.history(SESSION) == [
        StoredNode(1, 0, node(1, "hi")),
        StoredNode(1, 1, node(2, "hello", parent=1)),
        StoredNode(2, 0, node(3, "bye", parent=2)),
    ]
    assert sessions.history(SESSION, after_revision=1) == [StoredNode(2, 0, node(3, "bye", parent=2))]
    assert sessions.history(SESSION, after_revision=2) == []
    assert sessions.history(SessionId("unknown")) == []


def test_a_committed_turn_has_its_result_with_the_time_of_its_commit(scene: Scene, sessions: SqlSessionStore) -> None:
    admitted = scene.clock.now_ms()
    scene.send()
    turn = scene.open(ALICE)
    scene.clock.advance(2)
    scene.committed(turn, result=encode(AssembledTurn, result_of(turn)))

    assert sessions.turn(SESSION, turn.intent.turn_id) == TurnRecord(
        session_id=SESSION,
        turn_id=turn.intent.turn_id,
        turn_index=1,
        status=TurnStatus.COMMITTED,
        agent="support",
        agent_ref="ref-1",
        machine_version=3,
        attempt=1,
        holder=None,
        admitted_at_ms=admitted,
        committed_at_ms=admitted + 2000,
        result=replace(result_of(turn), committed_at_ms=admitted + 2000),
    )


def test_an_unfinished_turn_has_a_holder_and_no_result(scene: Scene, sessions: SqlSessionStore) -> None:
    scene.send()
    first = scene.open(ALICE)
    scene.store.give_up(SESSION, first.intent.turn_id, first.fence, crashed=True)
    turn = scene.open(BOB)
    record = sessions.turn(SESSION, turn.intent.turn_id)
    assert record is not None
    assert (record.status, record.holder, record.attempt) == (TurnStatus.RUNNING, BOB, 2)
    assert (record.committed_at_ms, record.result) == (None, None)


def test_a_turn_is_found_in_its_own_session_only(scene: Scene, sessions: SqlSessionStore) -> None:
    turn = run_turn(scene)
    assert sessions.turn(OTHER_SESSION, turn.intent.turn_id) is None
    assert sessions.turn(SESSION, TurnId("queue:unknown")) is None


def test_turns_are_listed_by_index_the_unfinished_one_included(scene: Scene, sessions: SqlSessionStore) -> None:
    committed = [run_turn(scene).intent.turn_id for _ in range(3)]
    scene.send()
    running = scene.open().intent.turn_id
    run_turn(scene, OTHER_SESSION)

    assert [turn.turn_id for turn in sessions.turns(SESSION)] == [*committed, running]
    assert [turn.turn_id for turn in sessions.turns(SESSION, limit=2)] == committed[:2]
    assert [turn.turn_id for turn in sessions.turns(SESSION, after_index=2)] == [committed[2], running]
    assert [turn.status for turn in sessions.turns(SESSION, after_index=2)] == ["committed", "running"]


# ---------------------------------------------------------------- deletion

USAGE = UsageEntry(ReplayKey("call-1"), "turn", "scripted:echo", TokenUsage(3, 2))


def test_a_deletion_leaves_a_tombstone_and_the_fence_and_nothing_else(scene: Scene, sessions: SqlSessionStore) -> None:
    born = scene.clock.now_ms()
    scene.send()
    dead = scene.open()
    scene.committed(dead, dead_reason="poison", usage=(USAGE,), nodes=(node(1),))
    scene.send()
    running = scene.open()
    scene.record(running)
    scene.store.request_cancel(SESSION, running.intent.turn_id, "not needed")
    scene.send()
    run_turn(scene, OTHER_SESSION, nodes=(node(1),))
    elsewhere = [row for rows in scene.everything().values() for row in rows if OTHER_SESSION in row]
    fence = scene.fence()
    scene.clock.advance(5)

    assert sessions.delete(SESSION)

    left = {name: [row for row in rows if SESSION in row] for name, rows in scene.everything().items()}
    assert {name for name, rows in left.items() if rows} == {"lash_sessions", "lash_fences"}
    assert scene.fence() == fence + 1
    head = sessions.head(SESSION)
    assert head is not None
    assert (head.created_at_ms, head.deleted_at_ms) == (born, born + 5000)
    assert [row for rows in scene.everything().values() for row in rows if OTHER_SESSION in row] == elsewhere


def test_a_deletion_breaks_the_fence_of_whoever_drives_the_session(scene: Scene, sessions: SqlSessionStore) -> None:
    scene.send()
    turn = scene.open()

    sessions.delete(SESSION)

    assert scene.record(turn) is RecordVerdict.FENCED
    assert scene.commit(turn, nodes=(node(1),)) is CommitRefused.FENCED
    assert scene.checkpoint(turn) == "fenced"
    assert scene.try_open() is NotOpened.NOTHING
    assert sessions.history(SESSION) == []
    assert sessions.turns(SESSION) == []


def test_a_second_deletion_keeps_the_first_tombstone(scene: Scene, sessions: SqlSessionStore) -> None:
    run_turn(scene)
    sessions.delete(SESSION)
    head = sessions.head(SESSION)
    scene.clock.advance(5)
    assert sessions.delete(SESSION)
    assert sessions.head(SESSION) == head


def test_a_session_that_was_only_looked_at_is_unknown(scene: Scene, sessions: SqlSessionStore) -> None:
    """On Postgres the look left a fence behind, so the deletion found something there and on SQLite nothing."""
    assert scene.try_open() is NotOpened.NOTHING

    assert not sessions.delete(SESSION)


def test_of_an_unknown_session_there_is_nothing_to_delete(scene: Scene, sessions: SqlSessionStore) -> None:
    before = scene.everything()
    assert not sessions.delete(SessionId("unknown"))
    assert scene.everything() == before


@pytest.mark.parametrize("trace", ["input", "fence"])
def test_a_session_that_never_had_a_turn_gets_its_tombstone(
    scene: Scene, sessions: SqlSessionStore, trace: str
) -> None:
    queue = SqlInputQueue(scene.database)
    if trace == "input":
        queue.enqueue(draft())
    else:
        with scene.database.transaction() as connection:
            connection.execute(insert(tables.fences).values(scope=f"session:{SESSION}", fence=4))

    assert sessions.delete(SESSION)

    assert scene.count(tables.batches) == 0
    assert scene.fence() == (5 if trace == "fence" else 1)
    with pytest.raises(SessionDeleted):
        queue.enqueue(draft())


def test_a_session_whose_name_is_a_prefix_of_another_is_deleted_alone(scene: Scene, sessions: SqlSessionStore) -> None:
    shorter, longer = SessionId("a"), SessionId("a/queue:b")
    for session_id in (shorter, longer):
        scene.send(session_id=session_id)
        scene.record(scene.open(session_id=session_id))
    sessions.delete(shorter)
    [row] = scene.rows(tables.effects)
    assert row["scope"].startswith("session:a/queue:b/")


def test_a_deletion_waits_for_a_commit_that_is_under_way(
    scene: Scene, sessions: SqlSessionStore, database_url: str, beside: ThreadPoolExecutor
) -> None:
    scene.send()
    turn = scene.open()
    other = scene.database if database_url == "sqlite://" else Database.open(database_url, now_ms=scene.clock.now_ms)
    with other.transaction() as committing:
        committing.execute(tables.fences.update().values(fence=turn.fence))
        deleting = start_and_wait(scene.database, beside, lambda: sessions.delete(SESSION))
        late = {"node_id": "late", "message": b"", "ordinal": 0, "revision": 1}
        committing.execute(insert(tables.nodes).values(session_id=SESSION, **late))
    assert deleting.result(30)
    assert scene.count(tables.nodes) == 0
    assert scene.commit(turn) is CommitRefused.FENCED
    if other is not scene.database:
        other.close()


def test_a_deletion_and_a_pruning_lock_what_is_of_a_turn_in_the_same_order(
    scene: Scene, sessions: SqlSessionStore, beside: ThreadPoolExecutor
) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    scene.send()
    turn = scene.open()
    scene.record(turn)
    scene.committed(turn)
    with scene.database.transaction() as connection:  # as `SqlWorkStore` prunes
        connection.execute(select(tables.turns.c.turn_id).with_for_update(skip_locked=True)).all()
        deleting = start_and_wait(scene.database, beside, lambda: sessions.delete(SESSION))
        connection.execute(delete(tables.effects))
    assert deleting.result(timeout=20)
    assert scene.count(tables.turns) == 0


def test_a_replay_whose_dead_letter_goes_meanwhile_finds_none_as_any_later_one_does(
    scene: Scene, sessions: SqlSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    scene.send("dead")
    scene.committed(scene.open(), dead_reason="poison")
    look = queue_module._session_of_dead

    def look_and_delete(connection: Connection, batch_id: BatchId) -> SessionId | None:
        found = look(connection, batch_id)
        assert sessions.delete(SESSION)
        return found

    monkeypatch.setattr(queue_module, "_session_of_dead", look_and_delete)
    queue = SqlInputQueue(scene.database)
    assert queue.replay(BatchId("dead"), BatchId("again")) is None
    monkeypatch.undo()
    assert queue.replay(BatchId("dead"), BatchId("again")) is None


def test_a_begun_call_and_a_large_outcome_go_with_their_turn(scene: Scene, sessions: SqlSessionStore) -> None:
    scene.send()
    turn = scene.open()
    scene.store.record([begun(turn, "never-tool")])
    scene.record(turn, "large", outcome=b"x" * 200_000)
    assert scene.count(tables.effects) == 2
    sessions.delete(SESSION)
    assert scene.count(tables.effects) == 0


# ---------------------------------------------------------------- usage


def used(key: str, model: str, usage: TokenUsage, source: str = "turn") -> UsageEntry:
    return UsageEntry(ReplayKey(key), source, model, usage)


@pytest.mark.shows("U3")
def test_usage_is_summed_by_source_and_model(scene: Scene, sessions: SqlSessionStore) -> None:
    first = (used("a", "openai:small", TokenUsage(10, 5, 2, 1)), used("b", "openai:large", TokenUsage(100, 50)))
    run_turn(scene, usage=first)
    run_turn(scene, usage=(used("c", "openai:small", TokenUsage(1, 1, 1, 1)),))
    run_turn(scene, OTHER_SESSION, usage=(used("a", "openai:small", TokenUsage(2**40, 0), "compaction"),))

    assert sessions.usage(SESSION) == [
        UsageTotal("turn", "openai:large", 1, TokenUsage(100, 50)),
        UsageTotal("turn", "openai:small", 2, TokenUsage(11, 6, 3, 2)),
    ]
    assert sessions.usage() == [
        UsageTotal("compaction", "openai:small", 1, TokenUsage(2**40, 0)),
        *sessions.usage(SESSION),
    ]
    assert sessions.usage(SessionId("unknown")) == []


@pytest.mark.shows("U3")
def test_usage_of_cached_tokens_alone_is_kept(scene: Scene, sessions: SqlSessionStore) -> None:
    run_turn(scene, usage=(used("a", "openai:small", TokenUsage(0, 0, 9, 0)),))
    assert sessions.usage(SESSION) == [UsageTotal("turn", "openai:small", 1, TokenUsage(0, 0, 9, 0))]


def test_the_last_call_is_that_of_the_newest_turn_by_its_place_in_it(scene: Scene, sessions: SqlSessionStore) -> None:
    assert sessions.last_call(SESSION) is None
    run_turn(scene, usage=(used(":1:1:llm_call:1", "small", TokenUsage(1)),))
    scene.clock.advance(1)
    calls = (used(f":2:{number}:llm_call:{number}", "small", TokenUsage(number)) for number in (2, 10, 9))
    run_turn(scene, usage=(*calls, used(":2:11:llm_call:1", "small", TokenUsage(77), "compaction")))
    run_turn(scene, OTHER_SESSION, usage=(used(":9:9:llm_call:9", "small", TokenUsage(99)),))

    assert sessions.last_call(SESSION) == TokenUsage(10)


def test_usage_since_a_time_is_that_of_turns_committed_then_or_later(scene: Scene, sessions: SqlSessionStore) -> None:
    run_turn(scene, usage=(used("a", "openai:small", TokenUsage(1, 0)),))
    scene.clock.advance(1)
    noon = scene.clock.now_ms()
    run_turn(scene, usage=(used("b", "openai:small", TokenUsage(20, 0)),))

    assert sessions.usage(since_ms=noon) == [UsageTotal("turn", "openai:small", 1, TokenUsage(20, 0))]
    assert sessions.usage(SESSION, since_ms=noon + 1) == []
    assert sessions.usage(SESSION, since_ms=noon - 1000)[0].usage == TokenUsage(21, 0)


def test_the_usage_of_a_deleted_session_goes_with_it(scene: Scene, sessions: SqlSessionStore) -> None:
    run_turn(scene, usage=(used("a", "openai:small", TokenUsage(1, 0)),))
    sessions.delete(SESSION)
    assert sessions.usage() == []
