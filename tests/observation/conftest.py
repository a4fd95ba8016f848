"""The scene of every observation test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.stores.sql.engine import Database
from tests.databases import MigratedSqlite
from tests.scene import Scene, Timeline, url_of_backend


@pytest.fixture
def clock() -> Timeline:
    return Timeline()


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    return url_of_backend(request)


@pytest.fixture
def scene(clock: Timeline, database_url: str, migrated_sqlite: MigratedSqlite) -> Iterator[Scene]:
    database = Database.open(database_url, now_ms=clock.now_ms)
    if database_url == "sqlite://":
        migrated_sqlite.fill(database)
    yield Scene(database, clock)
    database.close()
