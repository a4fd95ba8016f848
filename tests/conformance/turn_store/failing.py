"""Ways to make a database fail at a chosen statement, or at a chosen table in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import event, text

from lash_tasks.stores.sql import caller_connections, turns_postgres
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.pipeline import Row, Statement, pipelined

REFUSED = "P0001"
"""An error that no retry mends."""


class Injected(Exception):
    """The failure that a test has asked for."""


class Countdown:
    """Lets `left` statements pass and refuses the next one, if it comes before the transaction is over."""

    def __init__(self, left: int) -> None:
        self._left = left
        self.failed = False
        self.over = False

    def refuses(self) -> bool:
        self._left -= 1
        if self._left < 0 and not self.failed and not self.over:
            self.failed = True
            return True
        return False


@contextmanager
def failing_at(database: Database, statement: int) -> Iterator[Countdown]:
    """Fail instead of the `statement`-th statement from here, counted from 0; tell whether it came to that."""
    countdown = Countdown(statement)

    def before(*_: object) -> None:
        if countdown.refuses():
            raise Injected

    def piped(connection: psycopg.Connection[TupleRow], statements: Sequence[Statement]) -> list[list[Row]]:
        for place in range(len(statements)):
            if countdown.refuses():
                broken: Statement = ("SELECT no_such_function()", {})
                return pipelined(connection, [*statements[:place], broken, *statements[place:]])
        if any(query == "COMMIT" for query, _ in statements):
            countdown.over = True  # what follows only reads
        elif countdown.refuses():
            return pipelined(connection, [*statements, ("SELECT no_such_function()", {})])
        return pipelined(connection, statements)

    event.listen(database.engine, "before_cursor_execute", before)
    try:
        with patch.object(turns_postgres, "pipelined", piped), patch.object(caller_connections, "pipelined", piped):
            yield countdown
    finally:
        event.remove(database.engine, "before_cursor_execute", before)


@contextmanager
def refusing(database: Database, table: str, sqlstate: str = REFUSED, sleep: int = 0) -> Iterator[None]:
    """Let every write to `table` fail, whatever statement brings it; on Postgres after a sleep in its middle."""
    with database.transaction() as connection:
        if database.dialect == "sqlite":
            for verb in ("INSERT", "UPDATE", "DELETE"):
                connection.execute(
                    text(f"CREATE TRIGGER refuse_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END")
                )
        else:
            connection.execute(
                text(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                    f" $$ BEGIN PERFORM pg_sleep({sleep}); RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$"
                )
            )
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table}"
                    " FOR EACH ROW EXECUTE FUNCTION refuse()"
                )
            )
    try:
        yield
    finally:
        with database.transaction() as connection:
            if database.dialect == "sqlite":
                for verb in ("INSERT", "UPDATE", "DELETE"):
                    connection.execute(text(f"DROP TRIGGER refuse_{verb}"))
            else:
                connection.execute(text("DROP FUNCTION refuse() CASCADE"))
