"""The scene of the tests of the door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.stores.sql.engine import Database
from tests.databases import MigratedSqlite
from tests.scene import Scene, Timeline


@pytest.fixture
def scene(migrated_sqlite: MigratedSqlite) -> Iterator[Scene]:
    clock = Timeline()
    database = Database.open("sqlite://", now_ms=clock.now_ms)
    migrated_sqlite.fill(database)
    yield Scene(database, clock)
    database.close()
