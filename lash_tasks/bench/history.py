"""Sessions with a past: one turn that a worker ran is multiplied in SQL, with every row that it left.

What is copied is what there is: columns are read from the catalogue, and in texts and stored messages the ids of the
turn, its input and its session are replaced. So the history is in the form that the workers write just now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

TEMPLATE = "history-template"
"""The session whose one turn is multiplied."""

_IDS = "SELECT t.turn_id, b.id FROM lash_turns t JOIN lash_batches b ON b.turn_id = t.turn_id WHERE t.session_id = %s"
_COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = %s ORDER BY ordinal_position"""
_KEY = "replace({}, ':1:', ':' || n || ':')"
_NUMBERS: Mapping[str, Mapping[str, str]] = {
    "lash_nodes": {
        "revision": "n",
        "node_id": "replace(node_id, 'm1.', 'm' || n || '.')",
        "parent_id": "CASE WHEN parent_id IS NOT NULL THEN replace(parent_id, 'm1.', 'm' || n || '.')"
        " WHEN n > 1 THEN 'm' || (n - 1) || '.' || (SELECT max(ordinal) FROM lash_nodes last"
        " WHERE last.session_id = %(template)s) END",
    },
    "lash_turns": {"turn_index": "n", "base_revision": "n - 1", "fence": "2 * n - 1"},
    "lash_effects": {"fence": "2 * n - 1", "replay_key": _KEY.format("replay_key")},
    "lash_usage": {"effect_key": _KEY.format("effect_key")},
    "lash_batches": {"seq": ""},
}
"""By table, the columns that tell one turn from another by more than an id. Empty: left to the database."""


def give_history(connection: psycopg.Connection[Any], sessions: Sequence[str], turns: int) -> None:
    """Give each of these new sessions the template's turn so many times over."""
    if not turns:
        return
    row = connection.execute(_IDS, (TEMPLATE,)).fetchone()
    if row is None:
        raise RuntimeError("the template's turn did not run")
    values = {
        "template": TEMPLATE,
        "turn": row[0],
        "batch": row[1],
        "turns": turns,
        "sessions": list(sessions),
    }
    for table in _NUMBERS:
        connection.execute(_copy(connection, table), values)
    connection.execute(
        "INSERT INTO lash_sessions (id, head_revision, turn_index, created_at_ms)"
        " SELECT s, %(turns)s, %(turns)s, created_at_ms FROM unnest(%(sessions)s::text[]) AS s,"
        " lash_sessions WHERE id = %(template)s",
        values,
    )
    connection.execute(
        "INSERT INTO lash_fences (scope, fence) SELECT 'session:' || s, 2 * %(turns)s"
        " FROM unnest(%(sessions)s::text[]) AS s",
        values,
    )
    for table in (*_NUMBERS, "lash_sessions", "lash_fences"):
        # Now, so that no autovacuum does it while something is measured.
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table)))


def _copy(connection: psycopg.Connection[Any], table: str) -> sql.Composed:
    """The statement that writes the template's rows of one table for every session and turn."""
    numbers = _NUMBERS[table]
    columns = {
        name: numbers.get(name) or _replaced(name, kind)
        for name, kind in connection.execute(_COLUMNS, (table,)).fetchall()
        if numbers.get(name) != ""
    }
    where = (
        "scope = 'session:' || %(template)s || '/' || %(turn)s" if "scope" in columns else "session_id = %(template)s"
    )
    return sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM {table} AS row, unnest(%(sessions)s::text[]) AS s,"
        " generate_series(1, %(turns)s) AS n WHERE {where}"
    ).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(sql.SQL(expression) for expression in columns.values()),
        where=sql.SQL(where),
    )


def _replaced(name: str, kind: str) -> str:
    """A column with the ids of another turn, where it can hold any."""
    match kind:
        case "text":
            return _other_ids(f"row.{name}")
        case "bytea":
            text = _other_ids(f"convert_from(row.{name}, 'UTF8')")
            text = f"replace({text}, '\"id\":\"m1.', '\"id\":\"m' || n || '.')"
            return f"convert_to(replace({text}, '\"turn_index\":1}}', '\"turn_index\":' || n || '}}'), 'UTF8')"
        case _:
            return f"row.{name}"


def _other_ids(text: str) -> str:
    turn = "'queue:' || left(encode(sha256(convert_to(s || n, 'UTF8')), 'hex'), 24)"
    own = f"replace(replace({text}, %(turn)s::text, {turn}), %(batch)s::text, md5(s || n))"
    return f"replace({own}, %(template)s::text, s)"
