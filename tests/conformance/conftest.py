"""The backends that every SQL store is held to, each a fresh database with our tables and a clock moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import Scene
from tests.databases import MigratedSqlite


@pytest.fixture
def clock() -> FakeClock:
    """The database's clock."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite in memory, SQLite in a file, Postgres."""
    if request.param == "memory":
        return "sqlite://"
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str, clock: FakeClock, migrated_sqlite: MigratedSqlite) -> Iterator[Database]:
    database = Database.open(database_url, now_ms=clock.now_ms)
    if database_url == "sqlite://":
        migrated_sqlite.fill(database)
    yield database
    database.close()


@pytest.fixture
def scene(database: Database, clock: FakeClock) -> Scene:
    """The database with a TurnStore, in which a test arranges turns."""
    return Scene(database, clock)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Threads for what happens beside the test."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
