"""`include_object` in a project's own alembic environment: its `revision --autogenerate` sees its tables, not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_database
from lash_tasks.stores.sql import schema

ENVIRONMENT = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine
from lash_tasks import include_object

metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True), Column("note", Text))
Table("lash_holders", metadata, Column("id", Integer, primary_key=True))

engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=metadata, include_object=include_object, include_schemas=True
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
TEMPLATE = """revision = "${up_revision}"
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    pass
"""


@pytest.mark.parametrize("where", [None, "durable"])
def test_autogenerate_drops_none_of_our_tables_and_sees_the_projects_own(
    postgres_url: str, tmp_path: Path, where: str | None
) -> None:
    database = open_database(Settings(database_url=postgres_url, database_schema=where))
    schema.upgrade(database.engine)
    database.close()
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE forgotten (id INTEGER PRIMARY KEY)"))
    engine.dispose()

    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    (tmp_path / "script.py.mako").write_text(TEMPLATE)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", postgres_url)
    command.revision(config, message="mine", autogenerate=True)

    (script,) = (tmp_path / "versions").glob("*.py")
    operations = {line.strip() for line in script.read_text().splitlines() if line.strip().startswith("op.")}
    assert any(line.startswith("op.add_column('orders'") for line in operations)
    assert any(line.startswith("op.create_table('lash_holders'") for line in operations), "a model of the project's"
    assert {line for line in operations if "drop" in line} == {"op.drop_table('forgotten')"}
