"""The scene of every observation test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.stores.sql.engine import Database
from tests.databases import MigratedSqlite
from tests.scene import Scene, Timeline


@pytest.fixture
def clock() -> Timeline:
    return Timeline()


@pytest.fixture
def scene(clock: Timeline, migrated_sqlite: MigratedSqlite) -> Iterator[Scene]:
    database = Database.open("sqlite://", now_ms=clock.now_ms)
    migrated_sqlite.fill(database)
    yield Scene(database, clock)
    database.close()
