"""Hot queries of the queue and of maintenance on a Postgres with a past: they look at what is alive, not at history."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import event, text

from lash_tasks.clock import SystemClock
from lash_tasks.domain.ids import BatchId, SessionId, blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.errors import SessionBusy
from lash_tasks.stores.protocols import OpenRequest, Pruning
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from lash_tasks.stores.sql.tables import metadata
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import ALICE
from tests.conformance.inputs import draft, serve
from tests.postgres_protocol import ONE_CONNECTION, protocol_of

AGENTS = ["support"]
SESSION = SessionId("session-7")
OPENING = OpenRequest(session_id=SESSION, worker=ALICE, agents={"support": "ref"}, machine_version=1)
NOW_MS = SystemClock().now_ms()  # the rows below come from the first milliseconds of the epoch
PRUNING = Pruning(keys_after_ms=NOW_MS - 29_000, journals_after_ms=1)
PAST = (
    "INSERT INTO lash_sessions (id, created_at_ms) SELECT 'session-' || n, 1 FROM generate_series(1, 5000) AS n",
    """
    INSERT INTO lash_turns (session_id, turn_id, turn_index, status, base_revision, batch_ids, agent, agent_ref,
      machine_version, fence, holder, admitted_at_ms, committed_at_ms, pruned_at_ms)
    SELECT 'session-' || n % 5000, 'turn-' || n, n, CASE WHEN n > 29960 THEN 'running' ELSE 'committed' END, 0, '[]',
      'support', 'ref', 1, 1, CASE WHEN n > 29960 THEN 'alice' END, n, n, CASE WHEN n < 29900 THEN 1 END
    FROM generate_series(1, 30000) AS n
    """,
    """
    INSERT INTO lash_batches (id, session_id, agent, state, turn_id, source_key, input_digest, context_digest, early,
      exclusive, available_at_ms, enqueued_at_ms, ended_at_ms, payload)
    SELECT 'past-' || n, 'session-' || n % 5000, 'support', CASE WHEN n > 29900 THEN 'ready' ELSE 'consumed' END,
      CASE WHEN n > 29900 THEN NULL ELSE 'turn-' || n END, 'key-' || n, '', '', false, true, n, n - 1,
      CASE WHEN n > 29900 THEN NULL ELSE n END, ''
    FROM generate_series(1, 30000) AS n
    """,
    """
    INSERT INTO lash_effects (scope, replay_key, ordinal, fence, state, envelope)
    SELECT 'session:session-' || n % 5000 || '/turn-' || n, 'k', 0, 1, 'done', '' FROM generate_series(1, 30000) AS n
    """,
    "ANALYZE",
)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database.open(postgres_url)  # with the database's own, volatile clock
    with database.transaction() as connection:
        metadata.create_all(connection)
    serve(database)
    with database.transaction() as connection:
        for statement in PAST:
            connection.execute(text(statement))
    yield database
    database.close()


def enqueue(database: Database) -> None:
    with database.transaction() as connection:
        SqlInputQueue(database).enqueue_with(connection, draft(SESSION, source_key="new"))


def reject(database: Database) -> None:
    with pytest.raises(SessionBusy):
        SqlInputQueue(database).enqueue(draft(SessionId("session-4999")), reject_if_busy=True)


VERBS: dict[str, Callable[[Database], object]] = {
    "enqueue": enqueue,
    "reject": reject,
    "find by key": lambda database: SqlInputQueue(database).find(SESSION, source_key="key-7"),
    "waiting": lambda database: SqlInputQueue(database).waiting(SESSION),
    "cancel": lambda database: SqlInputQueue(database).cancel(SESSION, BatchId("past-7")),
    "runnable": lambda database: SqlWorkStore(database).runnable(OPENING),
    "abandoned": lambda database: SqlWorkStore(database).abandoned(AGENTS, machine_version=1, besides=["other"]),
    "pinned": lambda database: SqlWorkStore(database).pinned(SESSION),
    "ready": lambda database: SqlWorkStore(database).ready(AGENTS),
    "due": lambda database: SqlWorkStore(database).due(AGENTS, since_ms=NOW_MS - 29_990),
    "prune": lambda database: SqlWorkStore(database).prune(PRUNING, limit=50),
    "turns": lambda database: SqlSessionStore(database).turns(SESSION),
    "leave": lambda database: SqlFleet(database).leave(ALICE),
    "delete": lambda database: SqlSessionStore(database).delete(SESSION),
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_hot_query_reads_a_table_that_grows_from_end_to_end(database: Database, verb: str) -> None:
    plans = explain(database, VERBS[verb])
    assert plans
    for statement, plan in plans:
        scans = set(re.findall(r"Seq Scan on (lash_(?:batches|turns|sessions|effects))\b", plan))
        assert not scans, f"{statement}\n{plan}"


@pytest.mark.parametrize(
    ("verb", "condition"),
    [
        ("ready", r"ix_lash_batches_available on .*\n +Index Cond: \(available_at_ms <= "),
        ("due", r"ix_lash_batches_available.*\n +Index Cond: \(\(available_at_ms > .*\) AND \(available_at_ms <= "),
        ("ready", r"Filter: .*\(SubPlan \d+\) IS NULL.*seq = \(SubPlan"),
        ("prune", r"ix_lash_batches_ended on .*\n +Index Cond: \(ended_at_ms < "),
        ("prune", r"ix_lash_turns_journaled on .*\n +Index Cond: \(committed_at_ms < "),
    ],
)
def test_a_range_of_time_is_a_range_of_an_index_and_what_is_cheap_is_asked_first(
    database: Database, verb: str, condition: str
) -> None:
    assert any(re.search(condition, plan) for _, plan in explain(database, VERBS[verb]))


A_RUSH = (
    "DELETE FROM lash_batches WHERE state = 'ready'",
    "VACUUM ANALYZE lash_batches",
    """
    INSERT INTO lash_batches (id, session_id, agent, state, input_digest, context_digest, early, exclusive,
      available_at_ms, enqueued_at_ms, payload)
    SELECT 'rush-' || n, 'session-' || n % 4000, 'support', 'ready', '', '', true, false, n, n - 1, ''
    FROM generate_series(1, 8000) AS n
    """,
)
"""Input for many sessions, when the planner has last seen an empty queue."""


@pytest.fixture
def rushed(database: Database) -> Database:
    let_rush_in(database)
    return database


def let_rush_in(database: Database) -> None:
    with database.postgres() as connection:
        for statement in A_RUSH:
            connection.execute(statement.encode())


@pytest.mark.parametrize("verb", ["ready", "due", "runnable", "waiting"])
def test_a_rush_on_a_queue_that_was_empty_is_not_walked_through_for_each_session(rushed: Database, verb: str) -> None:
    """Ready input has partial indexes, which looked empty: a walk through one then looked as cheap as a probe, and was
    made for each of the sessions. A sweep of nine thousand took longer than a statement may."""
    plans = [plan for _, plan in explain(rushed, VERBS[verb]) if "lash_batches" in plan]
    assert plans
    for plan in plans:
        assert not walks_through_ready_input(plan), plan


def walks_through_ready_input(plan: str) -> list[str]:
    """Scans that find ready input by neither its session nor the time it is due."""
    scans = re.findall(r"Scan.* (?:using |on )ix_lash_batches_(?:ready|available)[^\n]*\n(.*)", plan)
    return [line for line in scans if not re.search(r"Cond: .*(session_id =|available_at_ms [<>])", line)]


LONG_LINE = """
    INSERT INTO lash_batches (id, session_id, agent, state, input_digest, context_digest, early, exclusive, merge_key,
      urgent, quiet_ms, available_at_ms, enqueued_at_ms, payload)
    SELECT 'line-' || n, 'busy', 'support', 'ready', '', '', false, n % 2 = 0, CASE WHEN n % 2 = 1 THEN 'm' END,
      n % 500 = 0, CASE WHEN n % 2 = 1 THEN 1000 END, n, n, ''
    FROM generate_series(1, 20000) AS n
    """


def test_the_head_of_a_long_line_and_the_ends_of_a_run_are_found_in_indexes(database: Database) -> None:
    """However much waits in a session, and however much of it for quiet."""
    with database.transaction() as connection:
        connection.execute(text(LONG_LINE))
        connection.execute(text("ANALYZE"))
    busy = replace(OPENING, session_id=SessionId("busy"))
    [plan] = [plan for _, plan in explain(database, lambda db: SqlWorkStore(db).runnable(busy)) if "batches" in plan]
    assert re.search(r"Index Scan using ix_lash_batches_ready on lash_batches line", plan), plan
    assert len(re.findall(r"Index (?:Only )?Scan(?: Backward)? using ix_lash_batches_quiet", plan)) >= 2, plan
    assert "Sort" not in plan, plan


def test_the_agent_of_a_session_is_not_sought_in_the_input_of_all_however_few_they_are(database: Database) -> None:
    """Where each has much input, a walk back through everybody's looked short. For one that was idle it was not."""
    with database.transaction() as connection:
        moved = "UPDATE lash_batches SET session_id = CASE WHEN seq < 10000 THEN 'session-7' ELSE 'session-8' END"
        connection.execute(text(moved))
        connection.execute(text("ANALYZE lash_batches"))
    agent_of = SqlSessionRegistry(database).agent_of
    plans = [plan for _, plan in explain(database, lambda _: agent_of(SESSION)) if "lash_batches" in plan]
    assert plans
    assert not any("pk_lash_batches" in plan for plan in plans), plans


def test_a_send_is_one_round_trip(postgres_url: str, tmp_path: Path) -> None:
    database = Database.open(postgres_url, options=ONE_CONNECTION)
    with database.transaction() as connection:
        metadata.create_all(connection)
    serve(database)
    new = draft(source_key="k", blobs=(Blob(blob_ref(b"picture"), b"picture"),))
    protocol = protocol_of(database, lambda: SqlInputQueue(database).enqueue(new), tmp_path)
    assert protocol.count("ReadyForQuery") == 1
    database.close()


def explain(database: Database, verb: Callable[[Database], object]) -> list[tuple[str, str]]:
    """What a verb executes, each statement with its plan from before it ran."""
    found: list[tuple[str, str]] = []

    def before(_connection: object, cursor: Any, statement: str, parameters: object, *_rest: object) -> None:
        if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)", statement):
            cursor.execute(f"EXPLAIN {statement}", parameters)
            found.append((statement, "\n".join(line for (line,) in cursor.fetchall())))

    def ask(query: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        plan = Database.ask(database, f"EXPLAIN {query}", parameters)
        found.append((query, "\n".join(line for row in plan for line in row.values())))
        return Database.ask(database, query, parameters)

    event.listen(database.engine, "before_cursor_execute", before)
    try:
        with patch.object(database, "ask", ask):
            verb(database)
    finally:
        event.remove(database.engine, "before_cursor_execute", before)
    return found
