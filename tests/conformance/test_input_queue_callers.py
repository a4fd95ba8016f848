"""`CallerQueue`: an input in the caller's own transaction lands with it or not at all, whatever the connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.domain.journal import RecordVerdict
from lash_tasks.domain.queue import BatchKind, BatchState, Enqueued, When
from lash_tasks.errors import IdempotencyConflict, InvalidInput, SessionDeleted, StoreMismatch, UnknownAgent
from lash_tasks.stores.protocols import CheckpointRefused
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests import services
from tests.conformance.arrange import SESSION, Scene
from tests.conformance.callers import (
    KINDS,
    KINDS_OF_DATABASES,
    Caller,
    CoreCaller,
    DjangoCaller,
    OrmCaller,
    PsycopgCaller,
    calling,
    django_connection,
)
from tests.conformance.inputs import OTHER_SESSION, draft, sent_under, serve, start_and_wait

PICTURE = b"\x89PNG\r\n\x1a\n\x00%s"
PICTURE_BLOB = Blob(blob_ref(PICTURE), PICTURE)
on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
on_files = pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
by_every_kind = pytest.mark.parametrize(
    ("database_url", "kind"),
    [pytest.param(url, kind, id=f"{url}-{kind.__name__}") for url, kind in KINDS_OF_DATABASES],
    indirect=["database_url"],
)
by_every_kind_of_postgres = pytest.mark.parametrize(
    ("database_url", "kind"),
    [pytest.param("postgres", kind, id=kind.__name__) for kind in KINDS["postgres"]],
    indirect=["database_url"],
)
by_tellers = pytest.mark.parametrize(
    ("database_url", "kind"),
    [pytest.param(url, kind, id=f"{url}-{kind.__name__}") for url, kind in KINDS_OF_DATABASES if kind.tells_commits],
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


@pytest.fixture
def rung() -> list[str]:
    """What the callbacks after a commit leave."""
    return []


def orders(scene: Scene) -> int:
    with scene.database.reading() as connection:
        return int(connection.execute(text("SELECT count(*) FROM orders")).scalar_one())


# ---------------------------------------------------------------- with it or not at all


@by_every_kind
def test_the_input_lands_with_the_callers_own_rows(scene: Scene, queue: SqlInputQueue, caller: Caller) -> None:
    sent = draft(source_key="100% sure: order 12", early=True, blobs=(PICTURE_BLOB,))
    caller.order()
    assert queue.enqueue_with(caller.connection, sent).enqueued == Enqueued(sent.id, SESSION, created=True)
    assert queue.find(SESSION, batch_id=sent.id) is None
    assert orders(scene) == 0

    caller.commit()

    stored = queue.find(SESSION, source_key="100% sure: order 12")
    assert stored is not None
    assert (stored.id, stored.state, stored.early, stored.exclusive) == (sent.id, BatchState.READY, True, True)
    assert (stored.payload, stored.merge_key) == (sent.payload, None)
    assert stored.available_at_ms == stored.enqueued_at_ms == scene.clock.now_ms()
    assert [(row["ref"], bytes(row["content"])) for row in scene.rows(tables.blobs)] == [(blob_ref(PICTURE), PICTURE)]
    assert orders(scene) == 1


@by_every_kind
def test_input_keeps_the_rule_it_was_sent_under(scene: Scene, queue: SqlInputQueue, caller: Caller) -> None:
    merging = draft(exclusive=False, merge_key="100% mine", quiet_ms=500)
    wake = draft(early=True, kind=BatchKind.WAKE)
    for sent in (merging, wake):
        queue.enqueue_with(caller.connection, sent)
    caller.commit()
    kept = [(batch.exclusive, batch.merge_key, batch.quiet_ms, batch.kind) for batch in queue.waiting(SESSION)]
    assert sorted(kept, key=str) == [(False, "100% mine", 500, None), (True, None, None, BatchKind.WAKE)]


@by_every_kind_of_postgres  # SQLite has one writer at a time
def test_a_transaction_that_its_caller_leaves_open_stops_nothing_of_a_turn(
    scene: Scene, queue: SqlInputQueue, caller: Caller, beside: ThreadPoolExecutor
) -> None:
    queue.enqueue(draft())
    turn = scene.open()
    late = [draft(**sent_under(when), blobs=(PICTURE_BLOB,)) for when in (When.STEER, When.MERGE, When.QUEUE)]
    for one in late:
        assert queue.enqueue_with(caller.connection, one).enqueued.created

    def work() -> None:
        assert scene.record(turn) == RecordVerdict.RECORDED
        assert scene.checkpoint(turn) is CheckpointRefused.EMPTY
        scene.committed(turn)

    beside.submit(work).result(5)
    caller.commit()
    assert [batch.id for batch in queue.waiting(SESSION)] == [one.id for one in late]


@by_every_kind
def test_what_the_caller_rolls_back_was_never_there(scene: Scene, queue: SqlInputQueue, caller: Caller) -> None:
    before = scene.everything()
    caller.order()
    queue.enqueue_with(caller.connection, draft(blobs=(PICTURE_BLOB,)))
    caller.rollback()
    assert scene.everything() == before
    assert orders(scene) == 0


@by_every_kind
def test_a_known_key_answers_with_the_first_and_the_transaction_goes_on(
    scene: Scene, queue: SqlInputQueue, caller: Caller
) -> None:
    first = draft(source_key="k")
    queue.enqueue(first)
    caller.order()
    again = queue.enqueue_with(caller.connection, draft(source_key="k"))
    assert again.enqueued == Enqueued(first.id, SESSION, created=False)
    caller.commit()
    assert orders(scene) == 1
    assert scene.count(tables.batches) == 1


@by_every_kind
def test_a_refusal_leaves_the_callers_transaction_usable(scene: Scene, queue: SqlInputQueue, caller: Caller) -> None:
    queue.enqueue(draft(words="buy", source_key="k"))
    queue.enqueue(draft(OTHER_SESSION))
    SqlSessionStore(scene.database).delete(OTHER_SESSION)
    before = scene.everything()

    caller.order()
    with pytest.raises(UnknownAgent, match="support"):
        queue.enqueue_with(caller.connection, draft(agent="nobody"))
    with pytest.raises(IdempotencyConflict):
        queue.enqueue_with(caller.connection, draft(words="sell", source_key="k"))
    with pytest.raises(SessionDeleted):
        queue.enqueue_with(caller.connection, draft(OTHER_SESSION))
    caller.order()
    caller.commit()

    assert orders(scene) == 2
    assert scene.everything() == before


@on_postgres
def test_a_duplicate_elsewhere_waits_for_the_caller(
    scene: Scene, queue: SqlInputQueue, database_url: str, beside: ThreadPoolExecutor
) -> None:
    first = draft(source_key="k")
    with calling(PsycopgCaller, database_url) as caller:
        queue.enqueue_with(caller.connection, first)
        duplicate = start_and_wait(scene.database, beside, lambda: queue.enqueue(draft(source_key="k")))
        caller.commit()
    assert duplicate.result(30) == Enqueued(first.id, SESSION, created=False)


@on_postgres
def test_in_autocommit_the_input_lands_at_once_and_whole(scene: Scene, queue: SqlInputQueue, database_url: str) -> None:
    with calling(PsycopgCaller, database_url) as caller:
        caller.connection.autocommit = True
        queue.enqueue_with(caller.connection, draft(blobs=(PICTURE_BLOB,)))
        assert (scene.count(tables.batches), scene.count(tables.blobs)) == (1, 1)


# ---------------------------------------------------------------- after the commit


@by_every_kind
def test_the_callback_comes_once_after_the_commit_where_the_library_tells(
    queue: SqlInputQueue, caller: Caller, rung: list[str]
) -> None:
    caller.order()
    sent = queue.enqueue_with(caller.connection, draft(), on_commit=lambda: rung.append("first"))
    assert sent.hooked is caller.tells_commits
    assert rung == []

    caller.commit()
    assert rung == (["first"] if caller.tells_commits else [])

    caller.order()
    caller.commit()
    assert rung == (["first"] if caller.tells_commits else [])


@by_tellers
def test_after_a_rollback_no_callback_comes(queue: SqlInputQueue, caller: Caller, rung: list[str]) -> None:
    caller.order()
    queue.enqueue_with(caller.connection, draft(), on_commit=lambda: rung.append("rolled back"))
    caller.rollback()
    caller.order()
    queue.enqueue_with(caller.connection, draft(), on_commit=lambda: rung.append("committed"))
    caller.commit()
    assert rung == ["committed"]


@by_tellers
def test_an_input_that_was_there_already_calls_nobody(queue: SqlInputQueue, caller: Caller, rung: list[str]) -> None:
    queue.enqueue(draft(source_key="k"))
    caller.order()
    again = queue.enqueue_with(caller.connection, draft(source_key="k"), on_commit=lambda: rung.append("again"))
    caller.commit()
    assert not again.hooked
    assert rung == []


@on_files
def test_a_savepoint_that_is_rolled_back_takes_its_callback_along(
    queue: SqlInputQueue, database_url: str, rung: list[str]
) -> None:
    with calling(OrmCaller, database_url) as caller:
        session: Session = caller.connection
        caller.order()
        with session.begin_nested():
            queue.enqueue_with(session, draft(), on_commit=lambda: rung.append("released"))
        assert rung == []
        with session.begin_nested() as outer:
            with session.begin_nested():
                queue.enqueue_with(session, draft(), on_commit=lambda: rung.append("rolled back"))
            outer.rollback()
        session.commit()
    assert rung == ["released"]
    assert len(queue.waiting()) == 1


@on_files
def test_a_session_that_is_closed_without_a_commit_calls_nobody(
    queue: SqlInputQueue, database_url: str, rung: list[str]
) -> None:
    with calling(OrmCaller, database_url) as caller:
        queue.enqueue_with(caller.connection, draft(), on_commit=lambda: rung.append("closed"))
        caller.connection.close()
        caller.order()
        caller.commit()
    assert rung == []
    assert queue.waiting() == []


@on_files
def test_djangos_autocommit_calls_back_at_once_and_a_transaction_it_does_not_manage_never(
    queue: SqlInputQueue, database_url: str, rung: list[str]
) -> None:
    connection = django_connection(database_url)
    assert queue.enqueue_with(connection, draft(), on_commit=lambda: rung.append("at once")).hooked
    assert rung == ["at once"]
    assert len(queue.waiting()) == 1

    connection.set_autocommit(False)
    assert not queue.enqueue_with(connection, draft(), on_commit=lambda: rung.append("never")).hooked
    connection.commit()
    connection.close()
    assert rung == ["at once"]
    assert len(queue.waiting()) == 2


# ---------------------------------------------------------------- another database


@pytest.mark.parametrize("kind", [CoreCaller, OrmCaller, PsycopgCaller, DjangoCaller])
@on_postgres
def test_a_connection_to_another_database_of_the_server_is_refused(
    queue: SqlInputQueue, postgres_server: str, kind: type[Caller]
) -> None:
    with services.fresh_database(postgres_server) as url:
        _create_tables(url)
        with calling(kind, url) as caller:
            with pytest.raises(StoreMismatch, match="another database"):
                queue.enqueue_with(caller.connection, draft())
            caller.rollback()


@on_postgres
def test_a_connection_that_finds_other_tables_or_none_is_refused(
    scene: Scene, queue: SqlInputQueue, database_url: str
) -> None:
    with scene.database.transaction() as connection:
        connection.execute(text("CREATE SCHEMA elsewhere"))
        connection.execute(text("CREATE TABLE elsewhere.lash_batches (LIKE lash_batches)"))
    with calling(PsycopgCaller, database_url) as caller:
        for path in ("elsewhere, public", "pg_catalog"):
            caller.connection.execute(f"SET search_path = {path}")
            with pytest.raises(StoreMismatch):
                queue.enqueue_with(caller.connection, draft())
        caller.connection.execute("SET search_path = public")
        assert queue.enqueue_with(caller.connection, draft()).enqueued.created


@pytest.mark.raises_code("store_mismatch")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", [CoreCaller, OrmCaller, DjangoCaller])
def test_a_connection_to_another_file_is_refused(queue: SqlInputQueue, tmp_path: Path, kind: type[Caller]) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    _create_tables(other)
    with calling(kind, other) as caller, pytest.raises(StoreMismatch):
        queue.enqueue_with(caller.connection, draft())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_another_path_to_the_same_file_is_the_same_database(
    queue: SqlInputQueue, tmp_path: Path, database_url: str
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(database_url.removeprefix("sqlite:///"))
    with calling(CoreCaller, f"sqlite:///{link}") as caller:
        assert queue.enqueue_with(caller.connection, draft()).enqueued.created


@pytest.mark.parametrize("database_url", ["memory"], indirect=True)
def test_a_database_in_memory_has_no_other_connection(queue: SqlInputQueue) -> None:
    with create_engine("sqlite://").connect() as connection, pytest.raises(StoreMismatch):
        queue.enqueue_with(connection, draft())


def test_a_connection_to_another_kind_of_database_is_refused(
    scene: Scene, queue: SqlInputQueue, postgres_server: str, tmp_path: Path
) -> None:
    other = postgres_server if scene.database.dialect == "sqlite" else f"sqlite:///{tmp_path / 'other.db'}"
    with calling(CoreCaller, other) as caller, pytest.raises(StoreMismatch):
        queue.enqueue_with(caller.connection, draft())


@pytest.mark.parametrize("address", ["localhost", "a socket"])
@on_postgres
def test_the_way_to_the_server_does_not_matter(queue: SqlInputQueue, database_url: str, address: str) -> None:
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        sockets = connection.execute("SHOW unix_socket_directories").fetchone()
        assert sockets is not None
        directory = str(sockets[0]).split(",")[0].strip()
    host = directory if address == "a socket" else "localhost"
    with psycopg.connect(make_conninfo(database_url.replace("+psycopg", ""), host=host)) as connection:
        assert queue.enqueue_with(connection, draft()).enqueued.created


def test_a_restarted_server_is_still_the_same_database() -> None:
    with services.PrivatePostgres() as server:
        database = Database.open(server.url)
        _create_tables(server.url)
        serve(database)
        queue = SqlInputQueue(database)
        for _ in range(2):
            with calling(PsycopgCaller, server.url) as caller:
                assert queue.enqueue_with(caller.connection, draft()).enqueued.created
            server.restart()
            database.engine.dispose()
        database.close()


@pytest.mark.parametrize("connection", [object(), "postgresql://", None, create_engine("sqlite://")])
def test_what_is_no_connection_we_know_is_refused(queue: SqlInputQueue, connection: object) -> None:
    with pytest.raises(InvalidInput, match="must be a SQLAlchemy Connection or Session") as refused:
        queue.enqueue_with(connection, draft())
    assert refused.value.field == "connection"


def test_a_bare_sqlite_connection_is_refused(queue: SqlInputQueue) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(InvalidInput, match="is a Connection and must be"):
        queue.enqueue_with(connection, draft())
    connection.close()


def _create_tables(url: str) -> None:
    database = Database.open(url)
    with database.transaction() as connection:
        tables.metadata.create_all(connection)
    database.close()
