"""A database with sessions in it, and the command line pointed at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lash_tasks.stores.sql import schema
from lash_tasks.stores.sql.engine import Database
from tests.cli.calling import Printed, call
from tests.scene import Scene, Timeline

Command = Callable[..., Printed]


@pytest.fixture
def scene(sqlite_url: str) -> Iterator[Scene]:
    """A migrated file with one agent, `support`, and no worker that would answer."""
    database = Database.open(sqlite_url)
    schema.upgrade(database.engine)
    yield Scene(database, Timeline())
    database.close()


@pytest.fixture
def lash_tasks(sqlite_url: str) -> Command:
    """A command on the scene's database, in this process."""

    def command(*arguments: str, **variables: str) -> Printed:
        return call(*arguments, **{"LASH_DATABASE_URL": sqlite_url, **variables})

    return command
