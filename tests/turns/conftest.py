"""The databases that whole turns run on: migrated once, emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema
from tests import services
from tests.turns.stage import Stage, emptied

UNHURRIED = "-c synchronous_commit=off"
"""The server outlives every simulated death, so no commit need wait for its disk."""


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    with services.fresh_database(postgres_server) as url:
        schema.upgrade(url)
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('turns')}/lash.db"
    schema.upgrade(url)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """An empty database."""
    url: str = request.getfixturevalue(f"migrated_{request.param}")
    options = {"connect_args": {"options": UNHURRIED}} if request.param == "postgres" else {}
    return emptied(Settings(database_url=url, database_options=options))


@pytest.fixture
def stage(settings: Settings) -> Stage:
    """A stage with an agent without tools and a model that echoes; a test puts its own in place."""
    return Stage(settings=settings)
