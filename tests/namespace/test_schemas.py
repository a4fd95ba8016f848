"""`LASH_DATABASE_SCHEMA`: all our tables in one schema of Postgres, whoever connects and wherever else they look."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine, text

from lash_tasks.client import Client
from lash_tasks.errors import ConfigurationError, LashError, SchemaBehind, StoreMismatch
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_database
from lash_tasks.stores.sql import schema
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import VERSION_TABLE, metadata
from tests.conformance.callers import KINDS, Caller, calling
from tests.conformance.inputs import serve

SCHEMA = "lash-Tasks_7"


@pytest.fixture
def settings(postgres_url: str) -> Settings:
    return Settings(database_url=postgres_url, database_schema=SCHEMA)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.close()


def schemas_of_our_tables(url: str) -> set[tuple[str, str]]:
    query = "SELECT schemaname, tablename FROM pg_tables WHERE tablename LIKE 'lash%'"
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return {(row[0], row[1]) for row in connection.execute(query)}


def test_upgrade_makes_the_schema_and_puts_every_table_in_it(database: Database, settings: Settings) -> None:
    with pytest.raises(SchemaBehind):
        schema.check(database.engine)
    schema.upgrade(database.engine)
    schema.check(database.engine)
    assert schemas_of_our_tables(str(settings.database_url)) == {
        (SCHEMA, name) for name in (*metadata.tables, VERSION_TABLE)
    }
    schema.upgrade(database.engine)
    schema.downgrade(database.engine)
    assert schema.current(database.engine) is None
    assert schemas_of_our_tables(str(settings.database_url)) == {(SCHEMA, VERSION_TABLE)}


def test_tables_in_another_schema_are_not_ours(postgres_url: str, database: Database) -> None:
    schema.upgrade(postgres_url)
    with pytest.raises(SchemaBehind):
        schema.check(database.engine)


def test_the_schemas_own_setting_wins_over_a_search_path_in_the_options(postgres_url: str) -> None:
    options = {"connect_args": {"options": "-c search_path=public"}}
    database = open_database(Settings(database_url=postgres_url, database_schema=SCHEMA, database_options=options))
    schema.upgrade(database.engine)
    assert {name for name, _ in schemas_of_our_tables(postgres_url)} == {SCHEMA}
    database.close()


def test_options_that_keep_connections_out_of_the_schema_are_refused(postgres_url: str, database: Database) -> None:
    schema.upgrade(database.engine)
    options = {"connect_args": {"options": None}}
    astray = open_database(Settings(database_url=postgres_url, database_schema=SCHEMA, database_options=options))
    with pytest.raises(ConfigurationError, match=r"look in schema 'public' instead of 'lash-Tasks_7'"):
        schema.upgrade(astray.engine)
    schema.upgrade(postgres_url)  # and not even tables of ours that they find mislead them
    with pytest.raises(ConfigurationError, match="let it pass `options`"):
        schema.check(astray.engine)
    astray.close()


@pytest.mark.parametrize("exists", [False, True])
def test_a_role_that_may_not_make_the_schema_is_told_so(postgres_url: str, database: Database, exists: bool) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as administrator:
        name = f"{urlsplit(postgres_url).path[1:]}_role"
        role = sql.Identifier(name)
        administrator.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(role))
        try:
            if exists:
                administrator.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
                administrator.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(SCHEMA), role))
            parts = urlsplit(postgres_url)
            url = parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port or 5432}").geturl()
            humble = open_database(Settings(database_url=url, database_schema=SCHEMA))
            with pytest.raises(ConfigurationError, match="may not create the schema 'lash-Tasks_7' or tables in it"):
                schema.upgrade(humble.engine)
            humble.close()
        finally:
            administrator.execute(sql.SQL("DROP OWNED BY {}").format(role))
            administrator.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.parametrize("kind", KINDS["postgres"])
def test_an_input_goes_along_with_a_callers_transaction_that_looks_elsewhere(
    kind: type[Caller], settings: Settings, database: Database
) -> None:
    schema.upgrade(database.engine)
    serve(database, "support")
    url = str(settings.database_url)
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE orders (name text)")
    with Client(settings) as client, calling(kind, url) as caller:
        for text_, end in (("rolled back", caller.rollback), ("committed", caller.commit)):
            caller.order()
            client.send("customer-7", text_, agent="support", idempotency_key=text_, connection=caller.connection)
            end()
        assert [batch.source_key for batch in client.stores.queue.waiting()] == ["committed"]


def test_a_callers_connection_to_another_database_is_refused(settings: Settings, database: Database) -> None:
    schema.upgrade(database.engine)
    serve(database, "support")
    elsewhere = create_engine(str(settings.database_url).rpartition("/")[0] + "/postgres")
    with Client(settings) as client, elsewhere.connect() as connection, pytest.raises(StoreMismatch):
        client.send("customer-7", "hello", agent="support", connection=connection)
    elsewhere.dispose()


# ---------------------------------------------------------------- one application per schema


def test_the_tables_of_another_namespace_are_refused(postgres_url: str) -> None:
    one, other, none = (
        open_database(Settings(database_url=postgres_url, database_schema=SCHEMA, namespace=namespace))
        for namespace in ("one", "other", "")
    )
    schema.upgrade(one.engine)
    schema.check(one.engine)
    for stranger in (other, none):
        with pytest.raises(ConfigurationError, match="are of the application in the namespace 'one'; set another"):
            schema.check(stranger.engine)
        with pytest.raises(ConfigurationError, match="LASH_DATABASE_SCHEMA"):
            schema.upgrade(stranger.engine)
    for database in (one, other, none):
        database.close()


def test_a_comment_of_somebody_elses_is_no_namespace(postgres_url: str) -> None:
    schema.upgrade(postgres_url)
    database = Database.open(postgres_url)
    with database.transaction() as connection:
        connection.execute(text(f"COMMENT ON TABLE {VERSION_TABLE} IS 'mind the gap'"))
    schema.check(database.engine)
    database.close()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(database_url="postgresql://db/app"), None),
        (Settings(database_url="postgresql://db/app", namespace="x"), "lash_x"),
        (Settings(database_url="postgresql://db/app", namespace="x", database_schema="app"), "app"),
        (Settings(database_url="sqlite:///a/lash.db", namespace="x"), None),
    ],
)
def test_a_namespace_has_a_schema_of_its_own_unless_one_is_set(settings: Settings, expected: str | None) -> None:
    assert settings.effective_schema() == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///lash.db", "sqlite:///lash.x.db"),
        ("sqlite:////data.d/lash", "sqlite:////data.d/lash.x"),
        ("sqlite:///.hidden?timeout=3", "sqlite:///.hidden.x?timeout=3"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg://db/app", "postgresql+psycopg://db/app"),
    ],
)
def test_a_namespace_has_a_sqlite_file_of_its_own(url: str, expected: str) -> None:
    assert Settings(database_url=url).require_database_url() == url
    assert Settings(database_url=url, namespace="x").require_database_url() == expected


@pytest.mark.parametrize("name", ["a b", 'a"b', "a.b", "1a", "pg_lash", "a" * 64])
def test_a_name_that_is_no_schemas_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^LASH_DATABASE_SCHEMA: must be the name of a schema"):
        Settings.from_environment({"LASH_DATABASE_SCHEMA": name})


def test_sqlite_has_no_schemas() -> None:
    sqlite = {"LASH_DATABASE_SCHEMA": "app", "LASH_DATABASE_URL": "sqlite:///lash.db"}
    with pytest.raises(ConfigurationError, match=r"^LASH_DATABASE_SCHEMA: SQLite has no schemas"):
        Settings.from_environment(sqlite)
    with pytest.raises(LashError, match="SQLite has no schemas"):
        Settings.from_environment({"LASH_DATABASE_SCHEMA": "app"}).embedded()
