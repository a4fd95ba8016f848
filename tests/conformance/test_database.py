"""The engine layer beneath every SQL store: transactions, waiting writers, failures, time."""

from __future__ import annotations

import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from lash_tasks.clock import FakeClock
from lash_tasks.errors import StoreUnavailable
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.pipeline import pipelined
from lash_tasks.stores.sql.tables import fences, metadata


@pytest.fixture
def scope(database: Database) -> str:
    """A fence row to write to."""
    with database.transaction() as connection:
        connection.execute(insert(fences).values(scope="session:s", fence=0))
    return "session:s"


def fence(database: Database, scope: str) -> int:
    with database.reading() as connection:
        current: int = connection.execute(select(fences.c.fence).where(fences.c.scope == scope)).scalar_one()
    return current


def raise_fence(connection: Connection, scope: str) -> None:
    connection.execute(update(fences).where(fences.c.scope == scope).values(fence=fences.c.fence + 1))


# ---------------------------------------------------------------- transactions


def test_a_transaction_commits_as_a_whole(database: Database, scope: str) -> None:
    with database.transaction() as connection:
        raise_fence(connection, scope)
        raise_fence(connection, scope)

    assert fence(database, scope) == 2


def test_an_exception_rolls_everything_back(database: Database, scope: str) -> None:
    def failing() -> None:
        with database.transaction() as connection:
            raise_fence(connection, scope)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert fence(database, scope) == 0


def test_a_refused_row_is_not_an_unavailable_database(database: Database, scope: str) -> None:
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.execute(insert(fences).values(scope=scope))


def test_a_missing_table_is_not_an_unavailable_database(database: Database) -> None:
    with pytest.raises(DBAPIError), database.reading() as connection:
        connection.execute(text("SELECT * FROM lash_no_such_table"))


def test_an_error_shows_no_values(database: Database, scope: str) -> None:
    with pytest.raises(IntegrityError) as caught, database.transaction() as connection:
        connection.execute(insert(fences).values(scope=scope, fence=777_000_777))

    assert "777000777" not in str(caught.value)


def test_writing_threads_wait_for_each_other(database: Database, scope: str) -> None:
    def writing() -> None:
        for _ in range(20):
            with database.transaction() as connection:
                raise_fence(connection, scope)

    with ThreadPoolExecutor(8) as threads:
        for writer in [threads.submit(writing) for _ in range(8)]:
            writer.result(30)

    assert fence(database, scope) == 160


def test_a_reader_does_not_see_what_is_not_committed(database: Database, database_url: str, scope: str) -> None:
    if database_url == "sqlite://":
        pytest.skip("in memory all share one connection, so a reader waits")
    with database.transaction() as connection:
        raise_fence(connection, scope)
        assert fence(database, scope) == 0

    assert fence(database, scope) == 1


# ---------------------------------------------------------------- SQLite


def test_a_sqlite_file_is_made_with_its_directory_and_written_safely(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/.lash/lash.db")
    with database.reading() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    database.close()

    assert (tmp_path / ".lash" / "lash.db").exists()
    assert pragmas == ["wal", 2]


def test_a_sqlite_file_that_somebody_is_just_making_is_waited_for(tmp_path: Path) -> None:
    """A client looked whether the stack was there while the stack made its file. SQLite gives one of two who switch a
    file to WAL up at once, and it was the stack, which did not start."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(Database.open, f"sqlite:///{path}")
        with pytest.raises(TimeoutError):
            opening.result(0.1)
        other.execute("COMMIT")
        opening.result(10).close()
    other.close()


def test_another_process_of_a_sqlite_file_waits_for_its_writer(sqlite_url: str) -> None:
    ours, theirs = Database.open(sqlite_url), Database.open(sqlite_url)
    with ours.transaction() as connection:
        metadata.create_all(connection)
        connection.execute(insert(fences).values(scope="s", fence=0))

    def writing(database: Database) -> None:
        for _ in range(25):
            with database.transaction() as connection:
                raise_fence(connection, "s")

    with ThreadPoolExecutor(2) as threads:
        for writer in [threads.submit(writing, database) for database in (ours, theirs)]:
            writer.result(30)

    assert fence(ours, "s") == 50
    ours.close()
    theirs.close()


@pytest.mark.shows("T11")
def test_a_sqlite_file_that_stays_locked_is_unavailable(sqlite_url: str) -> None:
    ours = Database.open(sqlite_url)
    theirs = Database.open(sqlite_url, options={"connect_args": {"timeout": 0.05}})
    with ours.transaction(), pytest.raises(StoreUnavailable, match="SQLITE_BUSY"), theirs.transaction():
        pytest.fail("two writers at once")

    with theirs.transaction() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    ours.close()
    theirs.close()


def test_a_sqlite_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "lash.db").mkdir()

    with pytest.raises(StoreUnavailable):
        Database.open(f"sqlite:///{tmp_path}/lash.db")


# ---------------------------------------------------------------- Postgres


@contextmanager
def opened(url: str, **options: object) -> Iterator[Database]:
    database = Database.open(url, options=options)
    try:
        yield database
    finally:
        database.close()


def kill_all(url: str) -> None:
    """Cut every connection to the database, as a restart of the server does."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def ask(database: Database) -> None:
    with database.postgres() as connection:
        connection.execute("SELECT 1")


def ask_pipelined(database: Database) -> None:
    with database.postgres() as connection:
        pipelined(connection, [("BEGIN", {}), ("SELECT 1", {}), ("COMMIT", {})])


def read(database: Database) -> None:
    with database.reading() as connection:
        connection.execute(text("SELECT 1"))


def write(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("SELECT 1"))


@pytest.mark.parametrize("use", [ask, ask_pipelined, read, write])
def test_after_a_restart_of_the_server_one_call_fails_and_the_next_one_works(
    postgres_url: str, use: Callable[[Database], None]
) -> None:
    with opened(postgres_url) as database:
        with database.postgres(), database.engine.connect(), database.engine.connect():
            pass  # three connections lie in the pool
        kill_all(postgres_url)

        with pytest.raises(StoreUnavailable):
            use(database)
        use(database)
        use(database)


@pytest.mark.raises_code("store_unavailable")
def test_a_broken_connection_does_not_outlive_a_transaction(postgres_url: str) -> None:
    def cut(database: Database) -> None:
        with database.postgres() as connection, connection.transaction():
            kill_all(postgres_url)
            connection.execute("SELECT 1")

    with opened(postgres_url) as database:
        with pytest.raises(StoreUnavailable):
            cut(database)
        ask(database)


@pytest.mark.shows("T11")
def test_waiting_too_long_for_a_lock_is_unavailable_and_spoils_no_connection(postgres_url: str) -> None:
    options = {"connect_args": {"options": "-c lock_timeout=50ms"}, "pool_size": 2, "max_overflow": 0}
    with opened(postgres_url, **options) as database:
        with database.transaction() as connection:
            metadata.create_all(connection)
            connection.execute(insert(fences).values(scope="s", fence=0))
        with database.transaction() as holder:
            raise_fence(holder, "s")
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="55P03"), database.transaction() as connection:
                    raise_fence(connection, "s")
                with pytest.raises(StoreUnavailable, match="55P03"), database.postgres() as raw:
                    pipelined(raw, [("BEGIN", {}), ("SELECT 1 FROM lash_fences FOR UPDATE", {}), ("COMMIT", {})])
                ask(database)

        assert fence(database, "s") == 1


def test_a_statement_that_takes_too_long_is_unavailable(postgres_url: str) -> None:
    options = {"connect_args": {"options": "-c statement_timeout=50ms"}}
    with (
        opened(postgres_url, **options) as database,
        pytest.raises(StoreUnavailable, match="57014"),
        database.reading() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(10)"))


@pytest.mark.shows("T11")
def test_a_deadlock_is_unavailable(postgres_url: str) -> None:
    with opened(postgres_url) as database:
        with database.transaction() as connection:
            metadata.create_all(connection)
            connection.execute(insert(fences), [{"scope": "a"}, {"scope": "b"}])
        together = threading.Barrier(2)

        def crossing(first: str, second: str) -> None:
            with database.transaction() as connection:
                raise_fence(connection, first)
                together.wait(10)
                raise_fence(connection, second)

        with ThreadPoolExecutor(2) as threads:
            both = [threads.submit(crossing, *scopes) for scopes in (("a", "b"), ("b", "a"))]
            errors = [error for each in both if (error := each.exception(20)) is not None]

        assert [type(error) for error in errors] == [StoreUnavailable]
        assert fence(database, "a") == fence(database, "b") == 1


def test_no_free_connection_is_unavailable(postgres_url: str) -> None:
    with (
        opened(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.05) as database,
        database.postgres(),
        pytest.raises(StoreUnavailable, match="pool_size"),
        database.reading(),
    ):
        pytest.fail("there is only one connection")


@pytest.mark.parametrize("way", ["postgres", "reading", "transaction"])
def test_a_server_that_is_not_there_is_unavailable_and_no_password_shows(way: str) -> None:
    with (
        opened("postgresql+psycopg://lash:s3cret@127.0.0.1:1/lash") as database,
        pytest.raises(StoreUnavailable, match="connection refused") as caught,
        getattr(database, way)(),
    ):
        pytest.fail("connected to nothing")

    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_what_an_exception_leaves_open_is_rolled_back(postgres_url: str) -> None:
    def failing(database: Database) -> None:
        with database.postgres() as raw:
            pipelined(raw, [("BEGIN", {}), ("INSERT INTO lash_fences (scope) VALUES ('s')", {})])
            raise ZeroDivisionError

    with opened(postgres_url, pool_size=1, max_overflow=0) as database:
        with database.transaction() as connection:
            metadata.create_all(connection)
        with pytest.raises(ZeroDivisionError):
            failing(database)

        with database.reading() as connection:
            assert connection.execute(select(fences)).all() == []


@pytest.mark.parametrize("threshold", [5, None])
def test_a_rollback_leaves_the_hot_statements_in_place(postgres_url: str, threshold: int | None) -> None:
    """psycopg prepares what is executed with many rows, and deallocates everybody's statements at a rollback."""
    connect = {"prepare_threshold": threshold}
    with opened(postgres_url, pool_size=1, max_overflow=0, connect_args=connect) as database:
        for _ in range(3):
            with database.transaction() as connection:
                connection.execute(text("SELECT :number"), [{"number": 1}, {"number": 2}])
            with database.postgres() as raw:
                assert pipelined(raw, [("SELECT 1 AS one", {})]) == [[{"one": 1}]]
                prepared = raw.execute("SELECT name LIKE 'lash%' FROM pg_prepared_statements").fetchall()
                assert prepared == ([] if threshold is None else [(True,)])
            with database.transaction() as connection:
                connection.rollback()


@pytest.mark.parametrize("loss", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_connection_that_lost_its_prepared_statements_fails_one_call_and_is_replaced(
    postgres_url: str, loss: str
) -> None:
    """A pooler between us and the server reset the connection. We went on naming what was no longer prepared there,
    and every later call on that connection failed with an error that nobody tried again."""
    with opened(postgres_url, pool_size=1, max_overflow=0) as database:
        ask_pipelined(database)
        with database.postgres() as connection:
            connection.execute(loss)

        with pytest.raises(StoreUnavailable, match="connection lost"):
            ask_pipelined(database)
        ask_pipelined(database)


def test_a_name_that_is_taken_on_the_server_fails_one_call(postgres_url: str) -> None:
    """A pooler gave us a server connection on which another of our processes had prepared under the same name."""
    with opened(postgres_url, pool_size=1, max_overflow=0) as database:
        ask_pipelined(database)
        with database.postgres() as connection:
            names = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
        database.engine.dispose()
        with database.postgres() as connection:
            for (name,) in names:
                connection.execute(f"PREPARE {name} AS SELECT 2".encode())

        with pytest.raises(StoreUnavailable, match="connection lost"):
            ask_pipelined(database)
        ask_pipelined(database)


def test_a_new_column_fails_one_call_of_workers_that_run(postgres_url: str) -> None:
    """A release added a column to a table that running workers read whole. The server refused what they had prepared,
    "cached plan must not change result type", until each of them was started anew."""
    with opened(postgres_url, pool_size=1, max_overflow=0) as database:
        with database.transaction() as connection:
            metadata.create_all(connection)
            connection.execute(insert(fences).values(scope="s", fence=7))
        whole = "SELECT f.* FROM lash_fences f"
        before = database.ask(whole, {})
        with database.transaction() as connection:
            connection.execute(text("ALTER TABLE lash_fences ADD COLUMN colour text"))

        with pytest.raises(StoreUnavailable, match="connection lost"):
            database.ask(whole, {})
        assert database.ask(whole, {}) == [{**before[0], "colour": None}]


def test_a_statement_may_come_twice_in_the_first_round_trip(postgres_url: str) -> None:
    """It was prepared twice, and the server refused the second."""
    with opened(postgres_url) as database, database.postgres() as raw:
        twice = [("SELECT %(text)s::text AS text", {"text": text}) for text in ("a", "b" * 1_000_000)]
        assert [rows[0]["text"][-1] for rows in pipelined(raw, twice)] == ["a", "b"]


def test_each_connection_names_the_columns_that_its_own_tables_have(postgres_url: str) -> None:
    """The columns of a statement were remembered for all connections. Two databases, or two search paths, that have
    the columns of one table in another order got the values of each other's columns."""
    with opened(postgres_url) as database, database.postgres() as one, database.postgres() as other:
        one.execute("CREATE TEMP TABLE pair (key text, value text)")
        one.execute("INSERT INTO pair VALUES ('k', 'v')")
        other.execute("CREATE TEMP TABLE pair (value text, key text)")
        other.execute("INSERT INTO pair VALUES ('v', 'k')")
        for connection in (one, other, one, other):
            assert pipelined(connection, [("SELECT * FROM pair", {})]) == [[{"key": "k", "value": "v"}]]


@pytest.mark.parametrize("refused", ["a\0b", "\ud800"])
def test_a_text_that_postgres_cannot_hold_costs_no_connection(postgres_url: str, refused: str) -> None:
    """It was found out in the middle of sending, so that the connection was closed and with it all idle ones."""
    with opened(postgres_url, pool_size=1, max_overflow=0) as database:
        (before,) = database.ask("SELECT pg_backend_pid() AS pid", {})
        with pytest.raises((psycopg.DataError, UnicodeEncodeError)):
            database.ask("SELECT %(text)s::text AS text", {"text": refused})
        assert database.ask("SELECT pg_backend_pid() AS pid", {}) == [before]


def test_connections_take_our_settings_beneath_those_of_url_and_options(postgres_url: str) -> None:
    def settings(database: Database) -> list[str]:
        names = ("application_name", "lock_timeout", "statement_timeout", "search_path")
        with database.reading() as connection:
            return [str(connection.execute(text(f"SHOW {name}")).scalar()) for name in names]

    with opened(postgres_url) as database:
        assert settings(database) == ["lash-tasks", "10s", "30s", '"$user", public']
    in_url = f"{postgres_url}?application_name=mine&options=-csearch_path%3Dlash%20-clock_timeout%3D1s"
    with opened(in_url) as database:
        assert settings(database) == ["mine", "1s", "30s", "lash"]
    with opened(
        postgres_url, connect_args={"application_name": "theirs", "options": "-cstatement_timeout=5s"}
    ) as database:
        assert settings(database) == ["theirs", "10s", "5s", '"$user", public']
    with opened(postgres_url, connect_args={"options": None}) as database:
        assert settings(database) == ["lash-tasks", "0", "0", '"$user", public']


def test_transactions_are_read_committed_whatever_the_database_prefers(postgres_url: str) -> None:
    """On one with another default, whoever had waited for a lock failed."""
    first = Database.open(postgres_url)
    with first.transaction() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'"))
    second = Database.open(postgres_url)
    with second.transaction() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar_one() == "read committed"
    for database in (first, second):
        database.close()


def test_no_statement_is_compiled(postgres_url: str) -> None:
    """With two thousand inputs that waited for quiet the sweep looked so dear that the server compiled it, each second
    anew: two seconds of work for a statement that runs for twenty milliseconds."""
    with opened(postgres_url) as database, database.reading() as connection:
        assert connection.execute(text("SHOW jit")).scalar() == "off"


# ---------------------------------------------------------------- time


def test_the_clock_of_a_test_is_the_clock_of_the_database(database: Database, clock: FakeClock) -> None:
    clock.advance(5)

    with database.reading() as connection:
        assert connection.execute(select(database.now())).scalar() == clock.now_ms()
        in_text = connection.execute(text(f"SELECT {database.now_sql}"), {"now_ms": database.now_override()})
        assert in_text.scalar() == clock.now_ms()


def test_otherwise_postgres_asks_its_own_clock(postgres_url: str) -> None:
    with opened(postgres_url) as database, database.reading() as connection:
        assert database.now_override() is None
        before, ours, in_text, after = connection.execute(
            text(
                "SELECT extract(epoch FROM clock_timestamp()) * 1000, "
                f"0, {database.now_sql}, extract(epoch FROM clock_timestamp()) * 1000"
            ),
            {"now_ms": None},
        ).one()
        assert ours == 0
        assert before - 1 <= in_text <= after + 1
        assert connection.execute(select(database.now())).scalar_one() >= in_text


def test_otherwise_sqlite_asks_the_clock_of_the_machine(sqlite_url: str) -> None:
    with opened(sqlite_url) as database, database.reading() as connection:
        first = connection.execute(select(database.now())).scalar_one()
        assert first <= (database.now_override() or 0) <= first + 60_000
