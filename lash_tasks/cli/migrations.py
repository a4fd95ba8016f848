"""`lash-tasks db`: the schema."""

from __future__ import annotations

import typer

from lash_tasks.cli.output import JsonFlag, command
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema
from lash_tasks.stores.sql.engine import Database

db = typer.Typer(help="The database schema.", no_args_is_help=True)


@db.command()
def upgrade(as_json: JsonFlag = False) -> None:
    """Bring the database to the schema that this version needs."""
    with command(as_json) as output:
        url = Settings.from_environment().require_database_url()
        with output.waiting("migrating"):
            schema.upgrade(url)
        output.document({"revision": schema.head()}, sentence=f"the database is at {schema.head()}")


@db.command()
def check(as_json: JsonFlag = False) -> None:
    """Exit 0 if the schema is what this version needs."""
    with command(as_json) as output:
        settings = Settings.from_environment()
        database = Database.open(settings.require_database_url(), options=settings.database_options)
        try:
            schema.check(database.engine)
            revision = schema.current(database.engine)
        finally:
            database.close()
        output.document({"revision": revision}, sentence=f"the database is at {revision}")
