"""The hot statements of a turn on a Postgres with a past: each reads what its session needs, by an index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow
from sqlalchemy import text

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import SessionId
from lash_tasks.stores.protocols import CheckpointTaken, CommitRefused, Committed, NotOpened, OpenedTurn
from lash_tasks.stores.sql import pipeline, turns_postgres
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.pipeline import Row, Statement, pipelined
from lash_tasks.stores.sql.rows import content_bytes
from lash_tasks.stores.sql.tables import metadata
from tests.conformance.arrange import BOB, Scene, journal_row, node
from tests.integration.test_query_plans import PAST, let_rush_in, walks_through_ready_input

IDLE, BUSY = SessionId("session-77"), SessionId("session-4930")
GROWS = "batches|turns|sessions|effects|nodes|usage|fences|blobs|frames|states"
MESSAGE = content_bytes(node(1)).hex()
HISTORY = (
    f"""
    INSERT INTO lash_nodes (session_id, revision, ordinal, node_id, message)
    SELECT 'session-' || n % 1000, n / 1000, 0, 'm' || n, decode('{MESSAGE}', 'hex')
    FROM generate_series(1000, 40000) AS n
    """,
    "INSERT INTO lash_fences (scope, fence) SELECT 'session:session-' || n, 1 FROM generate_series(1, 5000) AS n",
    """
    INSERT INTO lash_usage (session_id, effect_key, source, model, input_tokens, output_tokens, cached_input_tokens,
      reasoning_tokens, counted_at_ms)
    SELECT 'session-' || n % 5000, 'k' || n, 'turn', 'm', 1, 1, 0, 0, n FROM generate_series(1, 30000) AS n
    """,
    "INSERT INTO lash_blobs (ref, content) SELECT 'ref-' || n, '' FROM generate_series(1, 30000) AS n",
)


class Plans:
    """The plans of what `turns_postgres` sends, as Postgres keeps them for every call."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.found: list[tuple[str, str]] = []

    def __call__(self, connection: psycopg.Connection[TupleRow], statements: Sequence[Statement]) -> list[list[Row]]:
        for query, values in statements:
            if query not in ("BEGIN", "COMMIT"):
                self.found.append((query, self._plan(query, values)))
        return pipelined(connection, statements)

    def _plan(self, query: str, values: object) -> str:
        assert isinstance(values, dict)
        prepared = pipeline._statement(query)
        given = sql.SQL(", ").join(sql.Literal(values[name]) for name in prepared.parameters)
        with self._database.engine.connect() as connection, connection.begin() as transaction:
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)
            raw.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            raw.execute(b"PREPARE asked AS " + prepared.sql)
            ask = sql.SQL("EXPLAIN EXECUTE asked({})" if prepared.parameters else "EXPLAIN EXECUTE asked{}")
            lines = raw.execute(ask.format(given)).fetchall()
            raw.execute("DEALLOCATE asked")
            transaction.rollback()
        return "\n".join(line for (line,) in lines)

    def assert_by_index(self) -> None:
        assert self.found
        for query, plan in self.found:
            scans = re.findall(rf"Seq Scan on (lash_(?:{GROWS}))\b", plan)
            assert not scans, f"{query}\n{plan}"


@pytest.fixture
def scene(postgres_url: str) -> Iterator[Scene]:
    clock = FakeClock()
    database = Database.open(postgres_url, now_ms=clock.now_ms)
    with database.transaction() as connection:
        metadata.create_all(connection)
        for statement in (*PAST[:-1], *HISTORY, PAST[-1]):
            connection.execute(text(statement))
    yield Scene(database, clock)
    database.close()


@pytest.fixture
def plans(scene: Scene) -> Iterator[Plans]:
    plans = Plans(scene.database)
    with patch.object(turns_postgres, "pipelined", plans):
        yield plans


def opened(scene: Scene) -> OpenedTurn:
    return scene.open(agents={"support": "ref"}, session_id=BUSY)


def test_a_look_that_finds_nothing(scene: Scene, plans: Plans) -> None:
    assert scene.try_open(session_id=IDLE) is NotOpened.NOTHING
    plans.assert_by_index()


@pytest.mark.parametrize("known_revision", [0, 35], ids=["cold", "warm"])
def test_an_opening(scene: Scene, plans: Plans, known_revision: int) -> None:
    session_id = SessionId("session-930")
    scene.send(session_id=session_id)
    turn = scene.open(session_id=session_id, known_revision=known_revision)
    assert len(turn.history) == 39 - known_revision
    plans.assert_by_index()
    history = [plan for query, plan in plans.found if "lash_nodes" in query]
    assert any(re.search(r"(Index Cond|Recheck Cond): .*session_id.*revision", plan, re.DOTALL) for plan in history)


def test_an_opening_of_a_session_with_branches(scene: Scene, plans: Plans) -> None:
    session_id = SessionId("session-930")
    with scene.database.transaction() as connection:
        moved = "UPDATE lash_sessions SET branched = true, path_revision = 39, head_revision = 39 WHERE id = :id"
        connection.execute(text(moved), {"id": session_id})
    scene.send(session_id=session_id)
    assert [stored.revision for stored in scene.open(session_id=session_id).history] == [39]
    plans.assert_by_index()


def test_an_opening_with_urgent_input_and_such_that_waits_for_quiet(scene: Scene, plans: Plans) -> None:
    quiet = "UPDATE lash_batches SET exclusive = false, merge_key = 'm', quiet_ms = 100 WHERE state = 'ready'"
    with scene.database.transaction() as connection:
        connection.execute(text(quiet))
    urgent = scene.send(session_id=BUSY)
    with scene.database.transaction() as connection:
        connection.execute(text("UPDATE lash_batches SET urgent = true WHERE id = :id"), {"id": urgent})
    turn = opened(scene)
    assert turn.intent.batch_ids == (urgent,)
    scene.committed(turn)
    assert opened(scene).intent.batch_ids == ("past-29930",)
    plans.assert_by_index()


def test_a_take_over(scene: Scene, plans: Plans) -> None:
    opened(scene)
    turn = scene.open(BOB, agents={"support": "ref"}, session_id=BUSY)
    assert turn.resumed
    plans.assert_by_index()


def test_records_alone_and_in_a_group(scene: Scene, plans: Plans) -> None:
    turn = opened(scene)
    assert scene.record(turn) == "recorded"
    scene.store.record([journal_row(turn, f"call-{number}") for number in range(5)])
    plans.assert_by_index()


def test_a_checkpoint_and_a_commit(scene: Scene, plans: Plans) -> None:
    turn = opened(scene)
    joined = scene.inject(session_id=BUSY)
    assert isinstance(scene.checkpoint(turn), CheckpointTaken)
    batch_ids = (*turn.intent.batch_ids, joined)
    assert isinstance(scene.commit(turn, batch_ids=batch_ids, nodes=(node(1), node(2, parent=1))), Committed)
    assert scene.commit(turn, batch_ids=batch_ids) is CommitRefused.ALREADY
    plans.assert_by_index()


def test_a_rush_on_a_queue_that_was_empty_is_not_walked_through(scene: Scene, plans: Plans) -> None:
    let_rush_in(scene.database)
    session_id = SessionId("session-930")
    turn = scene.open(agents={"support": "ref"}, session_id=session_id)
    taken = scene.checkpoint(turn, context_digest="")
    assert isinstance(taken, CheckpointTaken)
    scene.record(turn)
    scene.committed(turn, batch_ids=(*turn.intent.batch_ids, *(batch.id for batch in taken.batches)))
    plans.assert_by_index()
    for query, plan in plans.found:
        assert not walks_through_ready_input(plan), f"{query}\n{plan}"
