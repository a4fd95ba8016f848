"""Migrations give exactly the tables that the code uses, forth and back, whoever runs them and how often."""

from __future__ import annotations

import ast
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from lash_tasks.errors import SchemaBehind
from lash_tasks.stores.sql import schema
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import VERSION_TABLE, metadata

DATA = {"data": b"{}"}
MIGRATIONS = Path(schema.__file__).parent / "migrations"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


def test_migrations_leave_nothing_for_autogenerate_to_do(database: Database) -> None:
    schema.upgrade(database.engine)
    options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts=options)
        found = [str(difference) for difference in compare_metadata(context, metadata)]
    if database.dialect == "sqlite":  # which does not say of the columns of an index that one is descending
        found = [difference for difference in found if "ix_lash_batches_ready" not in difference]
    assert found == []


def test_migrations_give_what_the_metadata_creates_down_to_checks_and_index_conditions(database: Database) -> None:
    schema.upgrade(database.engine)
    with database.transaction() as connection:
        migrated = _definitions(connection)
    schema.downgrade(database.engine)
    with database.transaction() as connection:
        metadata.create_all(connection)
        assert _definitions(connection) == migrated
    assert {"uq_lash_turns_unfinished", "ix_lash_batches_ready"} <= {name for name, _ in migrated}


def test_upgrade_check_downgrade_upgrade(database: Database) -> None:
    with pytest.raises(SchemaBehind) as behind:
        schema.check(database.engine)
    assert behind.value.args == (None, schema.head())

    schema.upgrade(database.engine)
    schema.check(database.engine)
    assert schema.current(database.engine) == schema.head()

    schema.downgrade(database.engine)
    assert schema.current(database.engine) is None
    with database.reading() as connection:
        assert [name for name in inspect(connection).get_table_names() if name != VERSION_TABLE] == []

    schema.upgrade(database.engine)
    schema.check(database.engine)


def test_a_second_upgrade_keeps_what_is_there(database: Database, url: str) -> None:
    schema.upgrade(url)
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO lash_fences (scope, fence) VALUES ('session:a', 7)"))
    schema.upgrade(url)
    with database.reading() as connection:
        assert connection.execute(text("SELECT fence FROM lash_fences")).scalar_one() == 7


def test_going_back_before_sessions_were_graphs_leaves_nothing_that_older_code_misreads(database: Database) -> None:
    """Without their columns a hidden node was shown again, a plugin's record was a message that nobody could read,
    which ended every turn of its session, and a command was an input."""
    schema.upgrade(database.engine)
    node = "INSERT INTO lash_nodes (session_id, revision, ordinal, node_id, message, kind, tombstoned_at_ms)"
    batch = """INSERT INTO lash_batches (id, session_id, agent, state, input_digest, context_digest, early, exclusive,
      available_at_ms, enqueued_at_ms, payload, kind)"""
    with database.transaction() as connection:
        for number, kind, hidden_at in ((1, "NULL", "NULL"), (2, "'record'", "NULL"), (3, "NULL", "7")):
            connection.execute(text(f"{node} VALUES ('s', {number}, 0, 'n{number}', :data, {kind}, {hidden_at})"), DATA)
        for name, state, kind in (("a", "ready", "NULL"), ("b", "ready", "'command'"), ("c", "consumed", "'command'")):
            values = f"('{name}', 's', 'support', '{state}', '', '', false, true, 1, 1, :data, {kind})"
            connection.execute(text(f"{batch} VALUES {values}"), DATA)
    schema.downgrade(database.engine, "0003_shorter_indexes")
    with database.reading() as connection:
        assert connection.execute(text("SELECT node_id FROM lash_nodes")).scalars().all() == ["n1"]
        assert connection.execute(text("SELECT id FROM lash_batches ORDER BY id")).scalars().all() == ["a", "c"]
    schema.upgrade(database.engine)


@pytest.mark.raises_code("schema_behind")
def test_an_older_schema_is_behind_and_a_newer_one_is_not(database: Database) -> None:
    schema.upgrade(database.engine)
    _set_version(database, "0000_before")
    with pytest.raises(SchemaBehind, match=f"is at 0000_before, this code needs {schema.head()}"):
        schema.check(database.engine)
    _set_version(database, "9999_after")
    schema.check(database.engine)


def test_processes_and_threads_that_upgrade_at_once_all_succeed(database: Database, url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes, ThreadPoolExecutor(4) as threads:
        started = [processes.submit(schema.upgrade, url) for _ in range(2)]
        started += [threads.submit(schema.upgrade, url) for _ in range(4)]
        for upgrade in started:
            upgrade.result(timeout=60)
    assert schema.current(database.engine) == schema.head()


def test_threads_upgrade_different_databases_at_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / str(number)}.db" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(schema.upgrade, urls))
    for url in urls:
        database = Database.open(url)
        schema.check(database.engine)
        database.close()


def test_an_upgrade_waits_for_another_and_finds_the_work_done(database: Database, url: str) -> None:
    """Migrations may take long: whoever comes second waits beyond the lock timeout of its connections."""
    options = {"connect_args": {"options": "-c lock_timeout=50ms"}} if database.dialect == "postgresql" else {}
    impatient = Database.open(url, options=options)
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as connection:
            if database.dialect == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema._ADVISORY_KEY})
            second = threads.submit(schema.upgrade, impatient.engine)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.5)
            metadata.create_all(connection)
            connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)"))
            connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:head)"), {"head": schema.head()})
        second.result(timeout=30)
    assert schema.current(database.engine) == schema.head()
    impatient.close()


def test_the_head_that_the_code_asks_for_is_the_last_packaged_revision() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_current_head() == schema.head()
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)


def test_every_revision_begins_with_a_sentence_of_its_own() -> None:
    for path in (MIGRATIONS / "versions").glob("*.py"):
        sentence = ast.get_docstring(ast.parse(path.read_text()))
        assert (sentence or "").endswith("."), path.name


def test_a_projects_own_autogenerate_leaves_our_tables_alone(database: Database) -> None:
    schema.upgrade(database.engine)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
        context = MigrationContext.configure(connection, opts={"include_object": schema.include_object})
        removed = compare_metadata(context, type(metadata)())
    assert [(operation[0], operation[1].name) for operation in removed] == [("remove_table", "orders")]


def _set_version(database: Database, revision: str) -> None:
    with database.transaction() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :revision"), {"revision": revision})


def _definitions(connection: Connection) -> set[tuple[str, str]]:
    """Every table, index and constraint of ours as the database spells it."""
    if connection.dialect.name == "sqlite":
        query = f"SELECT name, sql FROM sqlite_master WHERE tbl_name <> '{VERSION_TABLE}' AND sql IS NOT NULL"
        rows = connection.execute(text(query)).all()
        # A table that was made anew under another name and renamed has its name in quotes.
        return {(name, " ".join(_by_line(sql.replace(f'TABLE "{name}"', f"TABLE {name}")))) for name, sql in rows}
    queries = (
        "SELECT table_name || '.' || column_name,"
        " concat_ws(' ', ordinal_position, data_type, is_nullable, column_default)"
        " FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> :version",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> :version",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND conrelid <> CAST(:version AS regclass)",
    )
    found: set[tuple[str, str]] = set()
    for query in queries:
        found |= {(name, sql) for name, sql in connection.execute(text(query), {"version": VERSION_TABLE})}
    return found


def _by_line(sql: str) -> list[str]:
    """The lines of a CREATE statement, in an order that does not matter for constraints."""
    # A column that came later stands in the line of the last constraint.
    return sorted(part.strip() for part in re.split(r",\s|\n", sql) if part.strip(" ,"))
