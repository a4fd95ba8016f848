"""The scene of every TurnStore test, on every backend."""

from __future__ import annotations

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import Scene


@pytest.fixture
def scene(database: Database, clock: FakeClock) -> Scene:
    return Scene(database, clock)
