"""The schema's version: bring it up to date, ask where it stands, keep other projects' migrations off our tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from lash_tasks.errors import SchemaBehind
from lash_tasks.stores.sql.engine import Database, store_errors
from lash_tasks.stores.sql.tables import PREFIX, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

_HEAD = "0001_first_tables"
_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_KEY = 0x6C617368
_one_at_a_time = threading.Lock()


def head() -> str:
    """The revision that this code needs. Revisions are numbered, so that a later one sorts after an earlier one."""
    return _HEAD


def current(engine: Engine) -> str | None:
    """The revision that the database is at; None if our tables are not there."""
    with store_errors(), engine.connect() as connection:
        try:
            revision: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        except DBAPIError:
            connection.rollback()
            if inspect(connection).has_table(VERSION_TABLE):
                raise
            return None
        return revision


def check(engine: Engine) -> None:
    """Raise SchemaBehind if the database is older than this code needs.

    A newer one passes: a migration expands what older code uses, so that a fleet can be replaced worker by worker.
    """
    found = current(engine)
    if found is None or found < _HEAD:
        raise SchemaBehind(found, _HEAD)


def upgrade(target: str | Engine) -> None:
    """Bring a database, given by its URL or by the engine of a `Database`, to `head()`.

    All or nothing, idempotent, and safe when several processes do it at once: one works, the others wait for it.
    """
    from alembic import command

    with _migrating(target) as config:
        command.upgrade(config, "head")


def downgrade(target: str | Engine, revision: str = "base") -> None:
    """Take a database back to `revision`; what later revisions brought goes with all its rows."""
    from alembic import command

    with _migrating(target) as config:
        command.downgrade(config, revision)


def include_object(_object: object, name: str | None, type_: str, reflected: bool, _compare_to: object) -> bool:
    """For `include_object` of a project's own alembic environment: its autogenerate leaves our tables alone."""
    return not (type_ == "table" and reflected and name is not None and name.startswith(PREFIX))


@contextmanager
def _migrating(target: str | Engine) -> Iterator[Config]:
    """An alembic configuration with a connection, in a transaction that no other migration shares its time with."""
    from alembic.config import Config

    if isinstance(target, str):
        database = Database.open(target)
        try:
            with _migrating(database.engine) as config:
                yield config
        finally:
            database.close()
        return
    with (
        _one_at_a_time,  # alembic keeps the environment that runs in a global of its module
        store_errors(),
        target.connect().execution_options(lash_write=True) as connection,
        connection.begin(),
    ):
        if connection.dialect.name == "postgresql":
            _wait_for_others(connection)
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        yield config


def _wait_for_others(connection: Connection) -> None:
    """Take the migration lock, however long another has it; then time out on locks again, but never on the work."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    limit = connection.execute(text("SHOW lock_timeout")).scalar_one()
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
    connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": limit})
