"""The databases that whole turns run on."""

from __future__ import annotations

import pytest

from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """A migrated database of the test's own."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    schema.upgrade(url)
    return Settings(database_url=url)
