"""Running our statements inside a caller's own transaction, on whatever kind of connection the caller has.

Nothing here begins, commits or rolls back: the caller does. Errors of the caller's driver pass as they are, because
the caller's transaction is what they are about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection, TextClause, event, text
from sqlalchemy.engine.default import DefaultDialect

from lash_tasks.errors import InvalidInput
from lash_tasks.stores.sql.pipeline import pipelined
from lash_tasks.stores.sql.tables import PREFIX

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

Row = Sequence[Any]

_PYFORMAT = DefaultDialect(paramstyle="pyformat")


@dataclass(frozen=True, slots=True)
class PortableStatement:
    """A statement with `:name` parameters in the two forms that SQLAlchemy and plain drivers read."""

    sql: str
    clause: TextClause = field(compare=False)
    pyformat: str = field(compare=False)

    @classmethod
    def of(cls, sql: str) -> PortableStatement:
        clause = text(sql)
        return cls(sql, clause, str(clause.compile(dialect=_PYFORMAT)))


@cache
def _in_schema(statement: PortableStatement, schema: str) -> PortableStatement:
    """The statement with our tables named by their schema."""
    return PortableStatement.of(re.sub(rf"\b{PREFIX}\w+", lambda table: f'"{schema}".{table[0]}', statement.sql))


class CallerConnection(Protocol):
    """A connection of the caller's, in a transaction that the caller ends."""

    @property
    def dialect(self) -> str: ...

    def run(self, statement: PortableStatement, parameters: Mapping[str, object]) -> Sequence[Row]:
        """Execute the statement and return its rows."""
        ...

    def after_commit(self, callback: Callable[[], None]) -> bool:
        """Call `callback` once when the caller has committed, never after a rollback; False if nothing can tell us."""
        ...


def caller_connection(connection: object, *, schema: str | None = None) -> CallerConnection:
    """The connection behind `connection=`; InvalidInput if it is none that we know.

    With a `schema` our statements name it: the caller's search_path is the caller's.
    """
    known = _known(connection)
    return known if schema is None or known.dialect != "postgresql" else _InSchema(known, schema)


def _known(connection: object) -> CallerConnection:
    from sqlalchemy.orm import Session, scoped_session  # heavy, and nobody else here needs it

    match connection:
        case Connection():
            return SqlAlchemyConnection(connection)
        case psycopg.Connection():
            return PsycopgConnection(connection)
        case Session():
            return SqlAlchemySession(connection)
        case scoped_session():
            return SqlAlchemySession(connection())
    if all(hasattr(connection, name) for name in ("vendor", "cursor", "on_commit", "in_atomic_block")):
        return DjangoConnection(cast(_DjangoWrapper, connection))
    kinds = "a SQLAlchemy Connection or Session, a psycopg 3 Connection, or django.db.connection"
    raise InvalidInput("connection", f"is a {type(connection).__name__} and must be {kinds}")


class _InSchema:
    """A connection on which our tables are found by the name of their schema."""

    dialect = "postgresql"

    def __init__(self, connection: CallerConnection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    def run(self, statement: PortableStatement, parameters: Mapping[str, object]) -> Sequence[Row]:
        return self._connection.run(_in_schema(statement, self._schema), parameters)

    def after_commit(self, callback: Callable[[], None]) -> bool:
        return self._connection.after_commit(callback)


# ---------------------------------------------------------------- the kinds


class SqlAlchemyConnection:
    """A Core connection. It says when its transaction begins to commit, but not when that has happened."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect.name

    def run(self, statement: PortableStatement, parameters: Mapping[str, object]) -> Sequence[Row]:
        return self._connection.execute(statement.clause, parameters).all()

    def after_commit(self, callback: Callable[[], None]) -> bool:
        return False


class SqlAlchemySession(SqlAlchemyConnection):
    """An ORM session, on the connection that its transaction uses."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.connection())
        self._session = session

    def after_commit(self, callback: Callable[[], None]) -> bool:
        SessionCommits.of(self._session).call(callback)
        return True


class SessionCommits:
    """Calls back after a session's commit, unless the transaction or savepoint that asked for it was rolled back."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: list[tuple[frozenset[SessionTransaction], Callable[[], None]]] = []
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_soft_rollback", self._rolled_back)
        event.listen(session, "after_transaction_end", self._ended)

    @classmethod
    def of(cls, session: Session) -> SessionCommits:
        """The session's own: it keeps its listeners, because they must not be removed while they are called."""
        commits = session.info.get(cls)
        if not isinstance(commits, SessionCommits):
            commits = session.info[cls] = cls(session)
        return commits

    def call(self, callback: Callable[[], None]) -> None:
        within = set()
        transaction = self._session.get_nested_transaction() or self._session.get_transaction()
        while transaction is not None:
            within.add(transaction)
            transaction = transaction.parent
        self._waiting.append((frozenset(within), callback))

    def _committed(self, session: Session) -> None:
        if session.in_nested_transaction():
            return  # only a savepoint was released
        waiting, self._waiting = self._waiting, []
        for _, callback in waiting:
            callback()

    def _rolled_back(self, _session: Session, transaction: SessionTransaction) -> None:
        self._waiting = [(within, callback) for within, callback in self._waiting if transaction not in within]

    def _ended(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._waiting = []


class PsycopgConnection:
    """A psycopg 3 connection, whatever its row and cursor factories."""

    dialect = "postgresql"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def run(self, statement: PortableStatement, parameters: Mapping[str, object]) -> Sequence[Row]:
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(statement.pyformat.encode(), parameters)
            return cursor.fetchall()

    def after_commit(self, callback: Callable[[], None]) -> bool:
        return False


class OwnConnection:
    """A psycopg connection of our own, on which statements stay prepared."""

    dialect = "postgresql"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def run(self, statement: PortableStatement, parameters: Mapping[str, object]) -> Sequence[Row]:
        [rows] = pipelined(self._connection, [(statement.pyformat, parameters)])
        return [tuple(row.values()) for row in rows]

    def after_commit(self, callback: Callable[[], None]) -> bool:
        return False


class _DjangoWrapper(Protocol):
    """What we use of `django.db.connection`, so that Django need not be installed."""

    vendor: str
    in_atomic_block: bool

    def cursor(self) -> Any: ...

    def get_autocommit(self) -> bool: ...

    def on_commit(self, func: Callable[[], None]) -> None: ...


class DjangoConnection:
    """Django's connection wrapper, whose placeholders are those of psycopg on every database."""

    def __init__(self, wrapper: _DjangoWrapper) -> None:
        self._wrapper = wrapper
        self.dialect = wrapper.vendor

    def run(self, statement: PortableStatement, parameters: Mapping[str, object]) -> Sequence[Row]:
        with self._wrapper.cursor() as cursor:
            cursor.execute(statement.pyformat, parameters)
            rows: Sequence[Row] = cursor.fetchall()
            return rows

    def after_commit(self, callback: Callable[[], None]) -> bool:
        if not self._wrapper.in_atomic_block and not self._wrapper.get_autocommit():
            return False  # a transaction that Django does not manage: it would refuse
        self._wrapper.on_commit(callback)
        return True


# ---------------------------------------------------------------- the same database?

# A server's start time tells it from every other, needs no privilege, and is the same through every socket, address
# and pooler. The table's oid tells schemas of one database apart.
_WHICH_DATABASE: Mapping[str, PortableStatement] = {
    "postgresql": PortableStatement.of(
        "SELECT CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS bigint),"
        " (SELECT CAST(oid AS bigint) FROM pg_database WHERE datname = current_database()),"
        " CAST(CAST(to_regclass('lash_batches') AS oid) AS bigint)"
    ),
    "sqlite": PortableStatement.of("SELECT file FROM pragma_database_list WHERE name = 'main'"),
}

Identity = tuple[object, ...]


def identity(connection: CallerConnection) -> Identity | None:
    """Which database a connection reaches; None if it has no table of ours, or if no other connection can reach it."""
    which = _WHICH_DATABASE.get(connection.dialect)
    if which is None:
        return None
    [row] = connection.run(which, {})
    if connection.dialect == "sqlite":
        return ("sqlite", Path(row[0]).resolve()) if row[0] else None
    return None if row[2] is None else ("postgresql", *row)
