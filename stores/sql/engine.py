"""The SQL engine layer: one Database per URL, its transactions, its clock, and its errors in our own terms."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import BigInteger, ColumnElement, Connection, Engine, create_engine, event, func, literal
from sqlalchemy import cast as sql_cast
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, Pool, StaticPool

from lash_tasks.clock import Clock, SystemClock
from lash_tasks.errors import ConfigurationError, StoreUnavailable
from lash_tasks.stores.sql.pipeline import leave_unprepared, pipelined

Dialect = Literal["postgresql", "sqlite"]

POSTGRES_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""The database's clock in epoch milliseconds. Not `now()`: that stands still while a transaction waits for a lock."""

BUSY_TIMEOUT_SECONDS = 15.0
"""How long a SQLite writer waits for another, in this process or another one."""
BUSY_PAUSE_SECONDS = 0.01

_SESSION_SETTINGS = (
    "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=10s"
    " -c plan_cache_mode=force_generic_plan -c jit=off -c default_transaction_isolation=read\\ committed"
)
"""The third is for a process that is paused, or whose machine is gone, in mid-transaction: its locks stop a session.

The fourth saves planning at every call what always gets the same plan: for a statement of arrays most of its time. The
fifth saves compiling a statement for seconds that runs for milliseconds, when much waits and it looks dear. The last
is for a database with another default: under it, whoever has waited for a lock would fail instead of looking again.
"""
_POSTGRES_CONNECT: Mapping[str, Any] = {
    "application_name": "lash-tasks",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "tcp_user_timeout": 30_000,
}


class Database:
    """One database: its pool, and transactions whose failures are StoreUnavailable when a retry may help.

    Every context manager here is safe from any thread and must not be nested within one thread.
    """

    def __init__(self, engine: Engine, now_ms: Callable[[], int] | None) -> None:
        self.engine = engine
        self.dialect: Dialect = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"
        self._now_ms = SystemClock().now_ms if now_ms is None and self.dialect == "sqlite" else now_ms
        self._writing = threading.Lock()
        self._shared_connection = isinstance(engine.pool, StaticPool)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        schema: str | None = None,
        namespace: str = "",
        now_ms: Callable[[], int] | None = None,
    ) -> Database:
        """The database at `url`; `sqlite://` is one that lives in memory as long as this object.

        `options` reaches `create_engine` and wins over what stands here; its `connect_args` are merged by key. What
        cannot be opened like that is ConfigurationError. A SQLite file and its directory are created. `schema` is where
        our tables lie on Postgres: every connection finds them there, and `schema.check` refuses those of another
        `namespace`. `now_ms` replaces the database's clock, for tests.
        """
        parsed = _parsed(url)
        if parsed.get_backend_name() != "sqlite":
            with _refusing(options):
                engine = create_engine(parsed, **_postgres_options(parsed, dict(options or {}), schema))
            event.listen(engine, "connect", _prepare_postgres)
            engine.update_execution_options(lash_schema=schema, lash_namespace=namespace)
            return cls(engine, now_ms)
        in_memory = parsed.database in (None, "", ":memory:")
        if not in_memory:
            Path(cast(str, parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        defaults: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
        defaults["connect_args"] = {"check_same_thread": False, "timeout": BUSY_TIMEOUT_SECONDS}
        with _refusing(options):
            engine = create_engine(parsed, **_merged({**defaults, "hide_parameters": True}, dict(options or {})))
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            database = cls(engine, now_ms)
            with database.reading():  # the switch to WAL must not race between first users
                return database

    @property
    def schema(self) -> str | None:
        """The Postgres schema of our tables; None: wherever connections look by themselves."""
        schema: str | None = self.engine.get_execution_options().get("lash_schema")
        return schema

    def close(self) -> None:
        """Close the connections and open none any more: whoever still asks gets StoreUnavailable. Idempotent."""
        event.listen(self.engine, "do_connect", _refuse_to_connect)
        event.listen(self.engine.pool, "checkin", _close_returned)
        self.engine.dispose()

    # ------------------------------------------------------------ transactions

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: READ COMMITTED on Postgres, BEGIN IMMEDIATE on SQLite.

        Committed on a normal exit, rolled back on any exception. SQLite writers of this process queue on a lock
        of ours: the database's own waiting is a spin that starves.
        """
        with (
            store_errors(),
            self._alone() if self.dialect == "sqlite" else nullcontext(),
            self.engine.connect().execution_options(lash_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with. On SQLite all reads see one snapshot; on Postgres each sees its own."""
        with (
            store_errors(),
            self._alone() if self._shared_connection else nullcontext(),
            self.engine.connect() as connection,
        ):
            if self.dialect == "postgresql":  # READ COMMITTED gives each statement a snapshot anyway
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def postgres(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """The psycopg connection beneath, in autocommit: a statement is a transaction of one round trip.

        For more than one use its `transaction()`, or `pipelined` where round trips count. What an error or an early
        exit leaves open is rolled back.
        """
        with store_errors():
            pool = self.engine.pool
            pooled = self.engine.raw_connection()
            raw = cast("psycopg.Connection[TupleRow]", pooled.driver_connection)
            try:
                raw.autocommit = True
                yield raw
            finally:
                if raw.closed:
                    pooled.invalidate()
                    if self.engine.pool is pool:  # whatever broke this connection broke its idle neighbours
                        self._replace_pool(pool)
                else:
                    raw.rollback()  # what an error left open; nothing to do as a rule
                    raw.autocommit = False
                    pooled.close()

    def _replace_pool(self, pool: Pool) -> None:
        """Go on with new connections. What is in use of the old ones is closed when it comes back."""
        self.engine.dispose()
        event.listen(pool, "checkin", _close_returned)  # only now: the new pool takes over what listens to the old one
        pool.dispose()  # and what came back just before

    def ask(self, query: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        """The rows of one hand-written query on Postgres, in one round trip."""
        with self.postgres() as connection:
            return pipelined(connection, [(query, parameters)])[0]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise StoreUnavailable("another thread of this process has been writing to the database for too long")
        try:
            yield
        finally:
            self._writing.release()

    # ------------------------------------------------------------ time

    def now_override(self) -> int | None:
        """The parameter `now_ms` of `now_sql`. None in production on Postgres: the database's clock counts."""
        return None if self._now_ms is None else self._now_ms()

    @property
    def now_sql(self) -> str:
        """The time as a fragment for `text()`; bind its `:now_ms` to `now_override()`."""
        return ":now_ms" if self.dialect == "sqlite" else f"coalesce(CAST(:now_ms AS bigint), {POSTGRES_NOW})"

    def now(self) -> ColumnElement[int]:
        """The time as an expression for Core statements."""
        override = self.now_override()
        if override is not None:
            return literal(override, BigInteger)
        return sql_cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger)


# ---------------------------------------------------------------- connecting


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # whose messages may quote the URL, password and all
        raise ConfigurationError(
            "LASH_DATABASE_URL is no URL; write postgresql://user:password@host:5432/name or sqlite:///path"
        ) from None


@contextmanager
def _refusing(options: Mapping[str, Any] | None) -> Iterator[None]:
    """Say of options that they are to blame: SQLAlchemy and the drivers check few of them before they use them."""
    try:
        yield
    except (ArgumentError, AttributeError, TypeError, ValueError) as error:
        if not options:
            raise
        raise ConfigurationError(f"LASH_DATABASE_OPTIONS: {' '.join(str(error).split())}") from error


def _postgres_options(url: URL, options: dict[str, Any], schema: str | None) -> dict[str, Any]:
    """Our defaults beneath what the URL and the options say; server settings of theirs follow ours and so win.

    Except where our tables lie: that has a setting of its own.
    """
    asked = dict(options.get("connect_args", {}))
    in_url = url.normalized_query
    connect_args = {key: value for key, value in _POSTGRES_CONNECT.items() if key not in in_url}
    theirs = asked.pop("options", "")
    if theirs is not None:  # null asks for none at all: some poolers take none
        search_path = () if schema is None else (f'-c search_path="{schema}"',)
        connect_args["options"] = " ".join([_SESSION_SETTINGS, *in_url.get("options", ()), theirs, *search_path])
    defaults = {"pool_size": 10, "max_overflow": 10, "hide_parameters": True, "connect_args": connect_args}
    return _merged(defaults, {**options, "connect_args": asked})


def _merged(defaults: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    connect_args = {**defaults.get("connect_args", {}), **options.get("connect_args", {})}
    return {**defaults, **options, "connect_args": connect_args}


def _prepare_postgres(connection: psycopg.Connection[TupleRow], _record: object) -> None:
    """psycopg itself prepares nothing: at a rollback it deallocates what others have prepared on its connection too."""
    if connection.prepare_threshold is None:  # asked for, as for a pooler that keeps no statements
        leave_unprepared(connection)
    connection.prepare_threshold = None


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin transactions of its own, deferred ones
    _switch_to_wal(connection, SystemClock())
    connection.execute("PRAGMA synchronous = FULL")


def _switch_to_wal(connection: sqlite3.Connection, clock: Clock) -> None:
    """SQLite's own waiting is not for this: two who open a new file would wait for each other, so one is refused."""
    never, until = threading.Event(), clock.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or clock.monotonic() >= until:
                raise
        clock.wait(never, BUSY_PAUSE_SECONDS)


def _refuse_to_connect(*_: object) -> NoReturn:
    raise StoreUnavailable("the connections to the database were closed; open another client")


def _close_returned(_connection: object, record: ConnectionPoolEntry) -> None:
    """A connection that was in use when its pool was closed."""
    record.invalidate()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("lash_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


# ---------------------------------------------------------------- errors

_RETRYABLE_CLASSES = frozenset({"08", "40", "53", "57", "58"})
"""Connection, rollback (deadlock, serialization), resources, operator intervention and cancel, system."""
_RETRYABLE_STATES = frozenset({"55P03", "25006", "25P03", "25P04"})
"""Lock not available, a read-only standby, idle and transaction timeouts."""
_RETRYABLE_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_CONNECTION_PROBLEMS = (
    "connection refused",
    "authentication failed",
    "does not exist",
    "timeout",
    "failed to resolve host",
    "closed the connection",
    "too many clients",
    "no pg_hba.conf entry",
)

_UNKNOWN_OPTION = re.compile(r'invalid connection option "\w+"')
_MISSING_DATABASE = re.compile(r'database ".*" does not exist')


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise StoreUnavailable for what the same call may survive later, ConfigurationError for what no call will.

    Every other error passes as it is.
    """
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable("no database connection became free in time; raise pool_size or try again") from error
    except DBAPIError as error:
        _raise_as_ours(error.orig, error)
        raise
    except (psycopg.Error, sqlite3.Error) as error:
        _raise_as_ours(error, error)
        raise


def _raise_as_ours(driver_error: BaseException | None, cause: BaseException) -> None:
    if getattr(driver_error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
        raise ConfigurationError("LASH_DATABASE_URL names a file that is no SQLite database; name another") from cause
    if isinstance(driver_error, psycopg.ProgrammingError) and _UNKNOWN_OPTION.match(str(driver_error)):
        raise ConfigurationError(f"LASH_DATABASE_URL or LASH_DATABASE_OPTIONS: {driver_error}") from cause
    reason = unavailable_reason(driver_error)
    if reason is not None:
        raise StoreUnavailable(f"the database cannot be reached or gave up ({reason}); try again") from cause


def unavailable_reason(error: BaseException | None) -> str | None:
    """Why the database did not answer, or None if it did. Quotes no driver message: one may hold half a password."""
    match error:
        case psycopg.Error():
            state = error.sqlstate
            if state is None:
                lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
                return _connection_problem(str(error).lower()) if lost else None
            retryable = state[:2] in _RETRYABLE_CLASSES or state in _RETRYABLE_STATES
            return f"{type(error).__name__}, SQLSTATE {state}" if retryable else None
        case sqlite3.Error():
            code = getattr(error, "sqlite_errorcode", None)
            retryable = code is not None and code & 0xFF in _RETRYABLE_SQLITE
            return f"{error.sqlite_errorname}" if retryable else None
        case _:
            return None


def _connection_problem(message: str) -> str:
    if _MISSING_DATABASE.search(message):
        return "the server has no database of this name: create it"
    return next((problem for problem in _CONNECTION_PROBLEMS if problem in message), "connection lost")
