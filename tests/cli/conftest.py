"""A database with sessions in it, and the command line pointed at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lash_tasks import Lash
from lash_tasks.stores.sql.engine import Database
from tests.cli.calling import Printed, call
from tests.databases import MigratedSqlite
from tests.embedded.application import application
from tests.scene import Scene, Timeline

Command = Callable[..., Printed]


@pytest.fixture
def scene(sqlite_url: str, migrated_sqlite: MigratedSqlite) -> Iterator[Scene]:
    """A migrated file with one agent, `support`, and no worker that would answer."""
    migrated_sqlite.copy_to(sqlite_url)
    database = Database.open(sqlite_url)
    yield Scene(database, Timeline())
    database.close()


@pytest.fixture
def lash_tasks(sqlite_url: str) -> Command:
    """A command on the scene's database, in this process."""

    def command(*arguments: str, **variables: str) -> Printed:
        return call(*arguments, **{"LASH_DATABASE_URL": sqlite_url, **variables})

    return command


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Lash]:
    """An embedded stack on the database that the command is pointed at."""
    with application(tmp_path) as lash:
        yield lash
