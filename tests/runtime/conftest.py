"""The scene of the tests of the door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import metadata
from tests.scene import Scene, Timeline


@pytest.fixture
def scene() -> Iterator[Scene]:
    clock = Timeline()
    database = Database.open("sqlite://", now_ms=clock.now_ms)
    with database.transaction() as connection:
        metadata.create_all(connection)
    yield Scene(database, clock)
    database.close()
