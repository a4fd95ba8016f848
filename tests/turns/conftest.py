"""The databases that whole turns run on: migrated once, emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema
from tests import services
from tests.turns.stage import Stage, emptied

UNHURRIED = "-c synchronous_commit=off"
"""No simulated death takes the machine with it, so no commit need wait for a disk; SQLite's file lies in memory."""


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    with services.fresh_database(postgres_server) as url:
        schema.upgrade(url)
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite() -> Iterator[str]:
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="lash-turns-", dir=memory if memory.is_dir() else None) as directory:
        url = f"sqlite:///{directory}/lash.db"
        schema.upgrade(url)
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """An empty database."""
    url: str = request.getfixturevalue(f"migrated_{request.param}")
    options = {"connect_args": {"options": UNHURRIED}} if request.param == "postgres" else {}
    return emptied(Settings(database_url=url, database_options=options))


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    """A stage with an agent without tools and a model that echoes; a test puts its own in place."""
    with Stage(settings=settings) as stage:
        yield stage
