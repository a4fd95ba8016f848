"""The schema's version: bring it up to date, ask where it stands, keep other projects' migrations off our tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from lash_tasks.errors import ConfigurationError, SchemaBehind
from lash_tasks.stores.sql.engine import Database, store_errors
from lash_tasks.stores.sql.tables import PREFIX, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

_HEAD = "0004_sessions_as_graphs"
_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_KEY = 0x6C617368
_SIGNATURE = "lash-tasks, namespace "
_WHOSE = f"""
SELECT n.nspname, obj_description(c.oid, 'pg_class') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('{VERSION_TABLE}')"""
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
        _refuse_a_strangers_tables(connection)
        return revision


def check(engine: Engine) -> None:
    """Raise SchemaBehind if the database is older than this code needs.

    A newer one passes: a migration expands what older code uses, so that a fleet can be replaced worker by worker.
    ConfigurationError if connections are led to the tables of another schema or another application.
    """
    found = current(engine)
    if found is None or found < _HEAD:
        raise SchemaBehind(found, _HEAD)


def upgrade(target: str | Engine) -> None:
    """Bring a database, given by its URL or by the engine of a `Database`, to `head()`.

    All or nothing, idempotent, and safe when several processes do it at once: one works, the others wait for it.
    The schema that our tables shall lie in is created where it is missing; ConfigurationError if that is not allowed.
    """
    from alembic import command

    with _migrating(target) as config:
        connection: Connection = config.attributes["connection"]
        try:
            is_new = _make_room(connection)
            command.upgrade(config, "head")
            if is_new:
                _sign(connection)
        except ProgrammingError as error:
            if isinstance(error.orig, InsufficientPrivilege):
                raise ConfigurationError(_not_permitted(connection)) from error
            raise


def downgrade(target: str | Engine, revision: str = "base") -> None:
    """Take a database back to `revision`; what later revisions brought goes with all its rows."""
    from alembic import command

    with _migrating(target) as config:
        command.downgrade(config, revision)


def include_object(_object: object, name: str | None, type_: str, reflected: bool, _compare_to: object) -> bool:
    """For `context.configure(include_object=…)` in a project's own alembic environment.

    Its autogenerate then proposes to drop none of our tables, in whatever schema they lie.
    """
    return not (type_ == "table" and reflected and name is not None and name.startswith(PREFIX))


# ---------------------------------------------------------------- schemas of Postgres


def _schema_of(connection: Connection) -> str | None:
    schema: str | None = connection.get_execution_options().get("lash_schema")
    return schema


def _namespace_of(connection: Connection) -> str:
    namespace: str = connection.get_execution_options().get("lash_namespace", "")
    return namespace


def _make_room(connection: Connection) -> bool:
    """Create the schema where it is missing; whether it holds no tables of ours yet."""
    schema = _schema_of(connection)
    if schema is not None:
        exists = connection.execute(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": schema}).scalar()
        if not exists:
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        first = connection.execute(text("SELECT current_schema()")).scalar()
        if first != schema:
            raise ConfigurationError(_led_astray(first, schema))
    if inspect(connection).has_table(VERSION_TABLE):
        _refuse_a_strangers_tables(connection)
        return False
    return True


def _sign(connection: Connection) -> None:
    """Say in the database whose tables these are: a schema holds those of one application."""
    namespace = _namespace_of(connection)
    if connection.dialect.name == "postgresql" and namespace:
        connection.execute(text(f"COMMENT ON TABLE {VERSION_TABLE} IS '{_SIGNATURE}{namespace}'"))


def _refuse_a_strangers_tables(connection: Connection) -> None:
    """Raise ConfigurationError if connections find the tables of another schema or of another application."""
    if connection.dialect.name != "postgresql":
        return
    schema, namespace = _schema_of(connection), _namespace_of(connection)
    found, comment = connection.execute(text(_WHOSE)).one()
    if schema is not None and found != schema:
        raise ConfigurationError(_led_astray(found, schema))
    theirs = comment.removeprefix(_SIGNATURE) if comment is not None and comment.startswith(_SIGNATURE) else ""
    if theirs != namespace:
        whose = f"the application in the namespace {theirs!r}" if theirs else "an application without a namespace"
        raise ConfigurationError(f"the tables in schema {found!r} are of {whose}; set another LASH_DATABASE_SCHEMA")


def _led_astray(found: object, schema: str) -> str:
    return (
        f"connections look in schema {found!r} instead of {schema!r}: connect_args in LASH_DATABASE_OPTIONS keeps our "
        "search_path away; let it pass `options`, or set the role's search_path"
    )


def _not_permitted(connection: Connection) -> str:
    schema = _schema_of(connection)
    if schema is None:
        return "this role may not create tables here: GRANT it CREATE on the schema, or set LASH_DATABASE_SCHEMA"
    return (
        f"this role may not create the schema {schema!r} or tables in it: let the database's owner "
        f'CREATE SCHEMA "{schema}" AUTHORIZATION the role, then run lash-tasks db upgrade again'
    )


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
