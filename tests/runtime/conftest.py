"""The scene of the tests of the door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.stores.sql.engine import Database
from tests.databases import MigratedSqlite
from tests.scene import Scene, Timeline, url_of_backend


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    return url_of_backend(request)


@pytest.fixture
def scene(database_url: str, migrated_sqlite: MigratedSqlite) -> Iterator[Scene]:
    clock = Timeline()
    database = Database.open(database_url, now_ms=clock.now_ms)
    if database_url == "sqlite://":
        migrated_sqlite.fill(database)
    yield Scene(database, clock)
    database.close()
