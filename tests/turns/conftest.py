"""The databases that whole turns run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lash_tasks.settings import Settings
from tests.turns.stage import Stage


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """An empty database."""
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return Settings(database_url=url)


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    """A stage with an agent without tools and a model that echoes; a test puts its own in place."""
    with Stage(settings=settings) as stage:
        yield stage
