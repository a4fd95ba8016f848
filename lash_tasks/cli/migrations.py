"""`lash-tasks db`: the schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from lash_tasks.cli.application import require_database
from lash_tasks.cli.output import JsonFlag, command
from lash_tasks.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

db = typer.Typer(help="The database schema.", no_args_is_help=True)


@db.command()
def upgrade(as_json: JsonFlag = False) -> None:
    """Bring the database to the schema that this version needs."""
    from lash_tasks.stores.sql import schema

    with command(as_json) as output, _engine(may_be_new=True) as engine, output.waiting("migrating"):
        schema.upgrade(engine)
        revision = schema.current(engine)
        output.document({"revision": revision}, sentence=f"the database is at {revision}")


@db.command()
def check(as_json: JsonFlag = False) -> None:
    """Exit 0 if the schema is what this version needs."""
    from lash_tasks.stores.sql import schema

    with command(as_json) as output, _engine() as engine:
        schema.check(engine)
        revision = schema.current(engine)
        output.document({"revision": revision}, sentence=f"the database is at {revision}")


@contextmanager
def _engine(*, may_be_new: bool = False) -> Iterator[Engine]:
    """The engine of the environment's database, with its options; its SQLite file is there, or `may_be_new`."""
    from lash_tasks.stores.bundle import open_database

    settings = Settings.from_environment()
    require_database(settings, may_be_new=may_be_new)
    database = open_database(settings)
    try:
        yield database.engine
    finally:
        database.close()
