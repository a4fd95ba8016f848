"""Databases that have our tables already: migrated once for the whole run, and empty for every test."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from lash_tasks.stores.sql import schema, tables
from lash_tasks.stores.sql.engine import Database
from tests import services

LIBPQ = "postgresql"

Shape = list[tuple[str, int, bool]]


class MigratedPostgres:
    """One database on a shared server. Deleting a few rows takes 5 ms, creating and dropping a database ten times that.

    Its commits wait for no disk: no simulated death takes the machine with it. A test that stops the server, or that
    must have a database without our tables, takes another.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        name = sql.Identifier(make_url(url).database or "")
        with self._connected() as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
        schema.upgrade(url)
        with self._connected() as connection:
            self._shape = _shape(connection)

    def emptied(self) -> str:
        """Its URL, when whoever was connected is gone, no row is left, and the tables are as we made them."""
        with self._connected() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            intact = _shape(connection) == self._shape
            connection.execute(_DELETE_ALL if intact else "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        if not intact:
            schema.upgrade(self.url)
        return self.url

    def _connected(self) -> closing[psycopg.Connection[tuple[str, int, bool]]]:
        plain = make_url(self.url).set(drivername=LIBPQ).render_as_string(hide_password=False)
        return closing(psycopg.connect(plain, autocommit=True))


_DELETE_ALL = ";".join(f"DELETE FROM {table.name}" for table in tables.metadata.sorted_tables)  # quicker than TRUNCATE


def _shape(connection: psycopg.Connection[tuple[str, int, bool]]) -> Shape:
    """What shows that a test has added, dropped or altered a table."""
    return connection.execute(
        "SELECT relname::text, relnatts::int, relhastriggers FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace ORDER BY relname"
    ).fetchall()


class MigratedSqlite:
    """A migrated file and its copies. They lie in memory where the machine has a place for that."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._template = directory / "migrated.db"
        schema.upgrade(f"sqlite:///{self._template}")
        self._numbers = count(1)

    @contextmanager
    def copy(self) -> Iterator[str]:
        """The URL of a copy, which goes at the end."""
        directory = self._directory / str(next(self._numbers))
        directory.mkdir()
        url = f"sqlite:///{directory / 'lash.db'}"
        self.copy_to(url)
        try:
            yield url
        finally:
            shutil.rmtree(directory)

    def copy_to(self, url: str) -> None:
        """Lay a copy where this URL points."""
        shutil.copy(self._template, url.removeprefix("sqlite:///"))

    def fill(self, database: Database) -> None:
        """Give an empty `sqlite://` our tables."""
        with closing(sqlite3.connect(self._template)) as template, database.reading() as connection:
            template.backup(connection.connection.driver_connection)  # type: ignore[arg-type]  # it is sqlite3's


@contextmanager
def migrated_postgres(server_url: str) -> Iterator[MigratedPostgres]:
    """On a new database of the server, dropped at the end."""
    with services.fresh_database(server_url) as url:
        yield MigratedPostgres(url)


@contextmanager
def migrated_sqlite() -> Iterator[MigratedSqlite]:
    """In a new directory, removed at the end."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="lash-test-", dir=memory if memory.is_dir() else None) as directory:
        yield MigratedSqlite(Path(directory))
