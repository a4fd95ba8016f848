"""What goes over the wire between us and Postgres, for tests that count it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lash_tasks.stores.sql.engine import Database

ONE_CONNECTION = {"pool_size": 1, "max_overflow": 0}
"""Options of the database that is measured, so that it is known which connection an action takes."""


def protocol_of(database: Database, action: Callable[[], object], directory: Path) -> str:
    """The messages, one a line as libpq's trace writes them, of an action on a database with one connection.

    The server says `ReadyForQuery` once at the end of each round trip.
    """
    protocol = directory / "protocol"
    with protocol.open("w") as file:
        with database.postgres() as connection:
            connection.pgconn.trace(file.fileno())
        action()
        with database.postgres() as connection:
            connection.pgconn.untrace()
    return protocol.read_text()
