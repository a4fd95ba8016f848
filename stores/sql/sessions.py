"""What is committed, for reading, and the end of a session, in SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Select,
    and_,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
)

from lash_tasks.domain.codec import decode
from lash_tasks.domain.founding import CHILD_USAGE
from lash_tasks.domain.ids import BlobRef, SessionId, TurnId, fence_scope
from lash_tasks.domain.sessions import SessionHead, StoredNode
from lash_tasks.domain.turns import MAX_ATTEMPTS, AssembledTurn, TurnRecord, TurnStatus
from lash_tasks.domain.usage import TokenUsage, UsageTotal
from lash_tasks.errors import SessionBusy
from lash_tasks.stores.protocols import StoredState
from lash_tasks.stores.sql.conditions import in_status, now_of
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.graph import shown_history
from lash_tasks.stores.sql.rows import Row, session_head
from lash_tasks.stores.sql.tables import (
    attachments,
    batches,
    blobs,
    dead_letters,
    effects,
    fences,
    frames,
    nodes,
    sessions,
    states,
    turn_cancels,
    turns,
    usage,
)

_TURN = "SELECT * FROM lash_turns WHERE session_id = %(session_id)s AND turn_id = %(turn_id)s"
_RAISE_FENCE = text(
    "INSERT INTO lash_fences (scope, fence) VALUES (:scope, 1)"
    " ON CONFLICT (scope) DO UPDATE SET fence = lash_fences.fence + 1"
)
_TOKENS = (usage.c.input_tokens, usage.c.output_tokens, usage.c.cached_input_tokens, usage.c.reasoning_tokens)
_TOKEN_SUMS = [cast(func.sum(column), BigInteger) for column in _TOKENS]
# A child's own children count as its own. UNION, because a session that came to be again may be its own grandchild.
_CHILDREN_USAGE = text("""
WITH RECURSIVE family (id, label) AS (
  SELECT s.id, coalesce(s.usage_source, :child) FROM lash_sessions s
  WHERE s.parent_id = :session_id AND s.deleted_at_ms IS NULL
  UNION
  SELECT s.id, family.label FROM family JOIN lash_sessions s ON s.parent_id = family.id
  WHERE s.deleted_at_ms IS NULL AND s.id <> :session_id)
SELECT family.label, u.model, count(*), CAST(sum(u.input_tokens) AS bigint), CAST(sum(u.output_tokens) AS bigint),
  CAST(sum(u.cached_input_tokens) AS bigint), CAST(sum(u.reasoning_tokens) AS bigint)
FROM family JOIN lash_usage u ON u.session_id = family.id WHERE u.counted_at_ms >= :since_ms
GROUP BY family.label, u.model ORDER BY family.label, u.model""")
_TOMBSTONE = """
INSERT INTO lash_sessions (id, created_at_ms, deleted_at_ms) VALUES (:session_id, {now}, {now})
ON CONFLICT (id) DO UPDATE SET deleted_at_ms = coalesce(lash_sessions.deleted_at_ms, excluded.deleted_at_ms),
  name = NULL, parent_id = NULL, caused_by = NULL, usage_source = NULL, spec = NULL, frame_id = NULL,
  leaf_revision = NULL, leaf_ordinal = NULL, branched = false"""


class SqlSessionStore:
    """`SessionStore` on Postgres and SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self, session_id: SessionId) -> SessionHead | None:
        with self._database.reading() as connection:
            row = connection.execute(select(sessions).where(sessions.c.id == session_id)).mappings().one_or_none()
        return None if row is None else session_head(row)

    def sessions(self, limit: int = 100, after: SessionId | None = None) -> list[SessionHead]:
        query = select(sessions).where(sessions.c.deleted_at_ms.is_(None)).order_by(sessions.c.id).limit(limit)
        if after is not None:
            query = query.where(sessions.c.id > after)
        with self._database.reading() as connection:
            return [session_head(row) for row in connection.execute(query).mappings()]

    def history(self, session_id: SessionId, after_revision: int = 0) -> list[StoredNode]:
        with self._database.reading() as connection:
            return shown_history(connection, session_id, after_revision)

    def states(self, session_id: SessionId) -> list[StoredState]:
        query = (
            select(states.c.name, states.c.generation, states.c.ref, blobs.c.content)
            .outerjoin_from(states, blobs, blobs.c.ref == states.c.ref)
            .where(states.c.session_id == session_id)
            .order_by(states.c.name)
        )
        with self._database.reading() as connection:
            return [
                StoredState(row.name, row.generation, BlobRef(row.ref), row.content and bytes(row.content))
                for row in connection.execute(query)
            ]

    def turn(self, session_id: SessionId, turn_id: TurnId) -> TurnRecord | None:
        if self._database.dialect == "postgresql":
            found = self._database.ask(_TURN, {"session_id": session_id, "turn_id": turn_id})
            return _turn(found[0]) if found else None
        query = select(turns).where(turns.c.session_id == session_id, turns.c.turn_id == turn_id)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _turn(row)

    def turns(self, session_id: SessionId, limit: int = 100, after_index: int = 0) -> list[TurnRecord]:
        query = (
            select(turns)
            .where(turns.c.session_id == session_id, turns.c.turn_index > after_index)
            .order_by(turns.c.turn_index)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_turn(row) for row in connection.execute(query).mappings()]

    def usage(self, session_id: SessionId | None = None, since_ms: int = 0) -> list[UsageTotal]:
        query = (
            select(usage.c.source, usage.c.model, func.count(), *_TOKEN_SUMS)
            .where(usage.c.counted_at_ms >= since_ms)
            .group_by(usage.c.source, usage.c.model)
            .order_by(usage.c.source, usage.c.model)
        )
        if session_id is not None:
            query = query.where(usage.c.session_id == session_id)
        with self._database.reading() as connection:
            return _totals(connection.execute(query).all())

    def children_usage(self, session_id: SessionId, since_ms: int = 0) -> list[UsageTotal]:
        parameters = {"session_id": session_id, "since_ms": since_ms, "child": CHILD_USAGE}
        with self._database.reading() as connection:
            return _totals(connection.execute(_CHILDREN_USAGE, parameters).all())

    def last_call(self, session_id: SessionId) -> TokenUsage | None:
        ours = and_(usage.c.session_id == session_id, usage.c.source == "turn")
        newest = select(func.max(usage.c.counted_at_ms)).where(ours).scalar_subquery()
        query = select(usage.c.effect_key, *_TOKENS).where(ours, usage.c.counted_at_ms == newest)
        with self._database.reading() as connection:
            calls = [(_place(key), TokenUsage(*tokens)) for key, *tokens in connection.execute(query)]
        return max(calls, key=lambda call: call[0])[1] if calls else None

    def delete(self, session_id: SessionId, *, only_if_idle: bool = False, purge: bool = False) -> bool:
        scope = fence_scope(session_id)
        journal = select(literal(f"{scope}/") + turns.c.turn_id).where(turns.c.session_id == session_id)
        with self._database.transaction() as connection:
            if not _exists(connection, session_id):
                return False
            connection.execute(_RAISE_FENCE, {"scope": scope})
            if only_if_idle and _is_at_work(connection, session_id):
                raise SessionBusy(session_id)  # and the fence is as it was
            # As pruning does: the turns' rows before those of their journals.
            connection.execute(select(turns.c.turn_id).where(turns.c.session_id == session_id).with_for_update()).all()
            refs = _blobs_of(connection, session_id, journal) if purge else []
            now_ms: int = connection.execute(select(now_of(self._database))).scalar_one()
            mark = {"session_id": session_id, "now_ms": self._database.now_override()}
            connection.execute(text(_TOMBSTONE.format(now=self._database.now_sql)), mark)
            connection.execute(delete(effects).where(effects.c.scope.in_(journal)))
            clear_session(connection, session_id)
            if refs:
                connection.execute(_purge(refs, now_ms))
        return True


_OF_A_SESSION = (nodes, turns, turn_cancels, batches, dead_letters, usage, frames, states, attachments)


def clear_session(connection: Connection, session_id: SessionId) -> None:
    """Delete what a session consists of, but for its row, its fence and the journals of its turns."""
    for table in _OF_A_SESSION:
        connection.execute(delete(table).where(table.c.session_id == session_id))


def _blobs_of(connection: Connection, session_id: SessionId, journal: Select[Any]) -> list[str]:
    """The bytes that the session refers to."""
    theirs = (
        select(attachments.c.ref).where(attachments.c.session_id == session_id),
        select(states.c.ref).where(states.c.session_id == session_id),
        select(effects.c.outcome_ref).where(effects.c.scope.in_(journal), effects.c.outcome_ref.is_not(None)),
    )
    return [ref for query in theirs for ref in connection.execute(query).scalars()]


def _purge(refs: Sequence[str], now_ms: int) -> Delete:
    """Those of the bytes that nobody refers to any more. What somebody has put meanwhile stays; so does what is older
    than the manifest, and was never touched."""
    referred = or_(
        exists().where(attachments.c.ref == blobs.c.ref),
        exists().where(states.c.ref == blobs.c.ref),
        exists().where(effects.c.outcome_ref == blobs.c.ref),
    )
    over = select(blobs.c.ref).where(
        blobs.c.ref.in_(refs), blobs.c.touched_at_ms > 0, blobs.c.touched_at_ms < now_ms, ~referred
    )
    return delete(blobs).where(blobs.c.ref.in_(over.with_for_update(skip_locked=True)))


def _is_at_work(connection: Connection, session_id: SessionId) -> bool:
    unfinished = exists().where(turns.c.session_id == session_id, in_status(TurnStatus.RUNNING))
    return bool(connection.execute(select(unfinished)).scalar_one())


def _exists(connection: Connection, session_id: SessionId) -> bool:
    """Whether there is anything of the session. A fence that was never raised says nothing: a look leaves one."""
    traces = (
        exists().where(sessions.c.id == session_id),
        exists().where(batches.c.session_id == session_id),
        exists().where(fences.c.scope == fence_scope(session_id), fences.c.fence > 0),
    )
    return bool(connection.execute(select(or_(*traces))).scalar_one())


def _turn(row: Row) -> TurnRecord:
    result = None if row["result"] is None else decode(AssembledTurn, row["result"])
    return TurnRecord(
        session_id=SessionId(row["session_id"]),
        turn_id=TurnId(row["turn_id"]),
        turn_index=row["turn_index"],
        status=TurnStatus(row["status"]),
        agent=row["agent"],
        agent_ref=row["agent_ref"],
        machine_version=row["machine_version"],
        attempt=min(row["attempt"], MAX_ATTEMPTS),  # the opening that buries a turn is no attempt at it
        holder=row["holder"],
        admitted_at_ms=row["admitted_at_ms"],
        committed_at_ms=row["committed_at_ms"],
        result=None if result is None else replace(result, committed_at_ms=row["committed_at_ms"]),
    )


def _totals(rows: Iterable[Sequence[Any]]) -> list[UsageTotal]:
    return [UsageTotal(row[0], row[1], row[2], TokenUsage(*row[3:])) for row in rows]


def _place(effect_key: str) -> tuple[int, ...]:
    """Where in a session an effect came, by the numbers in its key: turn, iteration, effect."""
    return tuple(int(number) for number in re.findall(r"\d+", effect_key))
