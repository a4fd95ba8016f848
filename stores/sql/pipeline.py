"""Statements through libpq itself: prepared once a connection, any number in one round trip.

psycopg's own pipeline costs several times the CPU of the statements that it carries. This is the part of it that the
hot verbs need: values go out in the types that the statement asks for, rows come back as mappings.
"""

from __future__ import annotations

import itertools
import re
import select
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow

Statement = tuple[str, Mapping[str, object]]
"""With parameters as `%(name)s`. Written by us, never by a user."""
Row = dict[str, Any]
_Form = tuple[bytes | None, bool]
"""A value as the server takes it, and whether that is the binary form."""
_Columns = tuple[tuple[str, Callable[[bytes], Any]], ...]
"""The name and the decoder of each column of an answer."""

_TEXT, _BINARY = int(pq.Format.TEXT), int(pq.Format.BINARY)
_BYTEA_OID = 17
_PARAMETER = re.compile(r"%\((\w+)\)s")
_numbers = itertools.count()
_LOST_STATES = frozenset({"26000", "42P05", "0A000"})
"""What is prepared there is not what we think: a pooler has mixed connections up, or a table has another column now."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A statement as the server knows it: by a name, with numbered parameters."""

    name: bytes
    sql: bytes
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """A statement and its values as the server takes them."""

    statement: _Prepared
    values: Sequence[bytes | None]
    formats: Sequence[int]


@dataclass(slots=True)
class _Sent:
    """One answer that the pipeline still owes us. `statement` None: it was a preparation."""

    statement: _Prepared | None
    prepares: bytes | None = None
    rows: list[Row] = field(default_factory=list)


_statements: dict[str, _Prepared] = {}
_known: WeakKeyDictionary[psycopg.Connection[TupleRow], dict[bytes, _Columns]] = WeakKeyDictionary()
"""The names that each connection has prepared, with their columns once they have returned rows.

Two connections may see different tables behind one statement; on one connection the server refuses another shape.
"""
_unprepared: WeakSet[psycopg.Connection[TupleRow]] = WeakSet()


def leave_unprepared(connection: psycopg.Connection[TupleRow]) -> None:
    """Send statements through this connection without preparing any."""
    _unprepared.add(connection)


def pipelined(connection: psycopg.Connection[TupleRow], statements: Sequence[Statement]) -> list[list[Row]]:
    """Run the statements in one round trip and return the rows of each.

    The first error is raised when all answers are in; what it leaves open is the caller's to roll back. A value that
    has no form is refused before anything is sent. A connection is closed when its answers could not all be read, or
    when it has not prepared what it said. Give BEGIN and COMMIT among the statements: psycopg's `transaction()` waits
    at both ends.
    """
    pgconn = connection.pgconn
    known = None if connection in _unprepared else _known.setdefault(connection, {})
    forms: dict[int, dict[str, _Form]] = {}  # statements that share their values have them encoded once
    calls = [_call(query, values, forms.setdefault(id(values), {})) for query, values in statements]
    try:
        pgconn.enter_pipeline_mode()
        sent = list(_send(pgconn, calls, None if known is None else set(known)))
        pgconn.pipeline_sync()
        _flush(pgconn)
        error = _receive(pgconn, known, sent)
        pgconn.exit_pipeline_mode()
    except BaseException:
        pgconn.finish()
        raise
    if error is not None:
        if error.sqlstate in _LOST_STATES:
            pgconn.finish()
            raise psycopg.OperationalError("the connection has lost what was prepared on it") from error
        raise error
    return [one.rows for one in sent if one.statement is not None]


def _call(query: str, values: Mapping[str, object], forms: dict[str, _Form]) -> _Call:
    statement = _statements.get(query) or _statement(query)
    for name in statement.parameters:
        if name not in forms:
            forms[name] = _encoded(values[name])
    parameters = [forms[name] for name in statement.parameters]
    return _Call(
        statement, [value for value, _ in parameters], [_BINARY if binary else _TEXT for _, binary in parameters]
    )


def _send(pgconn: pq.abc.PGconn, calls: Iterable[_Call], prepared: set[bytes] | None) -> Iterator[_Sent]:
    """Send the calls; `prepared` are the names that need no preparation, or None to prepare nothing."""
    for call in calls:
        statement = call.statement
        if prepared is None:  # as psycopg does it for a pooler that keeps no statements
            pgconn.send_query_params(statement.sql, call.values, None, call.formats, _BINARY)
            yield _Sent(statement)
            continue
        if statement.name not in prepared:
            prepared.add(statement.name)
            pgconn.send_prepare(statement.name, statement.sql)
            yield _Sent(None, prepares=statement.name)
        pgconn.send_query_prepared(statement.name, call.values, call.formats, _BINARY)
        yield _Sent(statement)


def _statement(query: str) -> _Prepared:
    names = list(dict.fromkeys(_PARAMETER.findall(query)))
    numbered = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", query)
    statement = _Prepared(b"lash_%d" % next(_numbers), numbered.encode(), tuple(names))
    return _statements.setdefault(query, statement)


def _flush(pgconn: pq.abc.PGconn) -> None:
    while pgconn.flush():
        if _wait(pgconn, select.POLLIN | select.POLLOUT) & select.POLLIN:
            pgconn.consume_input()


def _receive(pgconn: pq.abc.PGconn, known: dict[bytes, _Columns] | None, sent: Sequence[_Sent]) -> psycopg.Error | None:
    """Read the answers into `sent` and what is prepared now into `known`; the first error, if there is one."""
    error: psycopg.Error | None = None
    for one in sent:
        while (result := _result(pgconn)) is not None:
            match result.status:
                case pq.ExecStatus.TUPLES_OK if one.statement is not None:
                    one.rows = _rows(_columns(one.statement, result, known), result)
                case pq.ExecStatus.COMMAND_OK:
                    if one.prepares is not None and known is not None:
                        known[one.prepares] = ()
                case pq.ExecStatus.PIPELINE_ABORTED:
                    pass
                case _:
                    error = error or error_from_result(result)
    synced = _result(pgconn)
    if synced is None or synced.status != pq.ExecStatus.PIPELINE_SYNC:
        raise error or psycopg.OperationalError("the server closed the connection in a pipeline")
    return error


def _result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    while pgconn.is_busy():
        _wait(pgconn, select.POLLIN)
        pgconn.consume_input()
    return pgconn.get_result()


def _wait(pgconn: pq.abc.PGconn, events: int) -> int:
    poll = select.poll()
    poll.register(pgconn.socket, events)
    return poll.poll()[0][1]


# ---------------------------------------------------------------- values


def _encoded(value: object) -> _Form:
    """DataError for a NUL in a text."""
    match value:
        case None:
            return None, False
        case bytes():
            return value, True
        case bool():
            return (b"t" if value else b"f"), False
        case int():
            return b"%d" % value, False
        case str():
            return _text(value), False
        case list() if any(isinstance(item, bytes) for item in value):
            return _bytea_array(value), True
        case list():
            return b"{" + b",".join(map(_array_item, value)) + b"}", False
        case _:
            raise TypeError(f"no form on the wire for {type(value).__name__}")


def _text(value: str) -> bytes:
    if "\0" in value:  # libpq would cut the text short there
        raise psycopg.DataError("PostgreSQL text cannot hold a NUL character")
    return value.encode()


def _array_item(item: object) -> bytes:
    match item:
        case None:
            return b"NULL"
        case int():
            return b"%d" % item
        case str():
            return b'"' + _text(item).replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        case _:
            raise TypeError(f"no form in an array for {type(item).__name__}")


def _bytea_array(items: Sequence[bytes | None]) -> bytes:
    parts = [struct.pack("!iiiii", 1, 1 if None in items else 0, _BYTEA_OID, len(items), 1)]
    for item in items:
        parts += (b"\xff\xff\xff\xff",) if item is None else (struct.pack("!i", len(item)), item)
    return b"".join(parts)


def _signed(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


_DECODERS: Mapping[int, Callable[[bytes], Any]] = {
    16: lambda value: value == b"\x01",  # boolean
    _BYTEA_OID: lambda value: value,
    20: _signed,  # bigint
    21: _signed,  # smallint
    23: _signed,  # integer
    25: bytes.decode,  # text
}


def _columns(statement: _Prepared, result: pq.abc.PGresult, known: dict[bytes, _Columns] | None) -> _Columns:
    columns = known.get(statement.name) if known is not None else None
    if not columns:
        columns = tuple(
            ((result.fname(at) or b"").decode(), _DECODERS[result.ftype(at)]) for at in range(result.nfields)
        )
        if known is not None:
            known[statement.name] = columns
    return columns


def _rows(columns: _Columns, result: pq.abc.PGresult) -> list[Row]:
    get = result.get_value
    rows = []
    for row in range(result.ntuples):
        values: Row = {}
        for at, (name, decode) in enumerate(columns):
            value = get(row, at)
            values[name] = None if value is None else decode(value)
        rows.append(values)
    return rows
