"""The durable queue of inputs in SQL. A sender inserts one row; everything else about it is the turn's business."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, case, or_, select, text, update

from lash_tasks.domain.ids import BatchId, SessionId, TurnId
from lash_tasks.domain.queue import (
    BatchDraft,
    BatchRecord,
    BatchState,
    Cancellation,
    CancelVerdict,
    DeadLetter,
    Enqueued,
)
from lash_tasks.errors import (
    IdempotencyConflict,
    NoWorkerHasRegistered,
    SessionBusy,
    SessionDeleted,
    StoreMismatch,
    StoreUnavailable,
    UnknownAgent,
)
from lash_tasks.stores.protocols import CallerEnqueued
from lash_tasks.stores.sql.attachments import TOUCH
from lash_tasks.stores.sql.caller_connections import (
    CallerConnection,
    Identity,
    OwnConnection,
    PortableStatement,
    SqlAlchemyConnection,
    caller_connection,
    identity,
)
from lash_tasks.stores.sql.conditions import in_order, in_state, is_held_back, now_of, quiet_until
from lash_tasks.stores.sql.engine import POSTGRES_NOW, Database
from lash_tasks.stores.sql.fencing import lock_fence
from lash_tasks.stores.sql.rows import batch_record
from lash_tasks.stores.sql.tables import batches, dead_letters, sessions

_log = logging.getLogger(__name__)

# ---------------------------------------------------------------- enqueue

_DOOR = """
  EXISTS (SELECT 1 FROM lash_sessions WHERE id = :session_id AND deleted_at_ms IS NOT NULL) AS deleted,
  EXISTS (SELECT 1 FROM lash_agents WHERE name = :agent) AS known,
  CAST(:only_if_idle AS boolean) AND (
    EXISTS (SELECT 1 FROM lash_turns WHERE session_id = :session_id AND status = 'running')
    OR EXISTS (SELECT 1 FROM lash_batches WHERE session_id = :session_id AND state = 'ready')) AS busy"""

_COLUMNS = """id, session_id, agent, source_key, input_digest, context_digest, early, exclusive, merge_key,
  replay_of, payload, available_at_ms, enqueued_at_ms, kind, urgent, quiet_ms"""

# What an urgent input adds: a command is let finish, for nobody asks it again.
_INTERRUPTION = """
  SELECT t.session_id, t.turn_id, :id, 'interrupted by input ' || :id, {now} FROM {source}
  WHERE t.session_id = :session_id AND t.status = 'running' AND NOT EXISTS (
    SELECT 1 FROM lash_batches c
    WHERE c.session_id = t.session_id AND c.turn_id = t.turn_id AND c.state = 'claimed' AND c.kind = 'command')
  ON CONFLICT (session_id, turn_id, cause) DO NOTHING"""
_CANCELS = "lash_turn_cancels (session_id, turn_id, cause, reason, requested_at_ms)"
_INTERRUPT = f"""
interrupted AS (
  INSERT INTO {_CANCELS} {_INTERRUPTION.format(now="now_ms", source="put CROSS JOIN door CROSS JOIN lash_turns t")}),"""
_WHILE_IT_WAITS = "lash_batches own JOIN lash_turns t ON own.id = :id AND own.state = 'ready'"
_INTERRUPT_LATE = f"INSERT INTO {_CANCELS} {_INTERRUPTION.format(now='{now}', source=_WHILE_IT_WAITS)}"

# One statement, so that it is whole also on a caller's connection in autocommit. A delay that is over counts from now.
_ENQUEUE = f"""
WITH door AS MATERIALIZED (SELECT {_DOOR}, coalesce(CAST(:now_ms AS bigint), {POSTGRES_NOW}) AS now_ms),
put AS (
  INSERT INTO lash_batches ({_COLUMNS})
  SELECT CAST(:id AS text), CAST(:session_id AS text), CAST(:agent AS text), CAST(:source_key AS text),
    CAST(:input_digest AS text), CAST(:context_digest AS text), CAST(:early AS boolean), CAST(:exclusive AS boolean),
    CAST(:merge_key AS text), CAST(:replay_of AS text), CAST(:payload AS bytea),
    greatest(CAST(:available_at_ms AS bigint), now_ms), now_ms,
    CAST(:kind AS text), CAST(:urgent AS boolean), CAST(:quiet_ms AS bigint)
  FROM door WHERE known AND NOT deleted AND NOT busy
  ON CONFLICT (session_id, source_key) DO NOTHING RETURNING id),%s
blobs AS (
  INSERT INTO lash_blobs (ref, content, touched_at_ms)
  SELECT given.ref, given.content, door.now_ms
  FROM unnest(CAST(:refs AS text[]), CAST(:contents AS bytea[])) AS given (ref, content) CROSS JOIN door
  WHERE EXISTS (SELECT 1 FROM put) ORDER BY given.ref
  ON CONFLICT (ref) DO UPDATE SET {TOUCH} RETURNING ref),
attached AS (
  INSERT INTO lash_attachments (session_id, ref, intent_at_ms)
  SELECT CAST(:session_id AS text), blobs.ref, door.now_ms FROM blobs CROSS JOIN door
  ON CONFLICT (session_id, ref) DO NOTHING)
SELECT deleted, known, busy, EXISTS (SELECT 1 FROM put) AS created FROM door"""
_ENQUEUE_POSTGRES = PortableStatement.of(_ENQUEUE % "")
_ENQUEUE_URGENT_POSTGRES = PortableStatement.of(_ENQUEUE % _INTERRUPT)

_DOOR_SQLITE = PortableStatement.of(f"SELECT {_DOOR}")
_PUT_SQLITE = PortableStatement.of(f"""
INSERT INTO lash_batches ({_COLUMNS})
VALUES (:id, :session_id, :agent, :source_key, :input_digest, :context_digest, :early, :exclusive, :merge_key,
  :replay_of, :payload, max(:available_at_ms, :now_ms), :now_ms, :kind, :urgent, :quiet_ms)
ON CONFLICT (session_id, source_key) DO NOTHING RETURNING id""")
_INTERRUPT_SQLITE = PortableStatement.of(
    f"INSERT INTO {_CANCELS} {_INTERRUPTION.format(now=':now_ms', source='lash_turns t')} RETURNING turn_id"
)
_BLOB_SQLITE = PortableStatement.of(
    "INSERT INTO lash_blobs (ref, content, touched_at_ms) VALUES (:ref, :content, :now_ms)"
    f" ON CONFLICT (ref) DO UPDATE SET {TOUCH} RETURNING ref"
)
_ATTACH_SQLITE = PortableStatement.of(
    "INSERT INTO lash_attachments (session_id, ref, intent_at_ms) VALUES (:session_id, :ref, :now_ms)"
    " ON CONFLICT (session_id, ref) DO NOTHING RETURNING ref"
)

_STORED = PortableStatement.of(
    "SELECT id, input_digest FROM lash_batches WHERE session_id = :session_id AND source_key = :source_key"
)
_AGENTS = PortableStatement.of("SELECT DISTINCT name FROM lash_agents ORDER BY name")


class SqlInputQueue:
    """`InputQueue` on Postgres and SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._identity: Identity | None = None

    def enqueue(self, draft: BatchDraft, *, reject_if_busy: bool = False) -> Enqueued:
        if not reject_if_busy and self._database.dialect == "postgresql":
            with self._database.postgres() as raw:
                enqueued = self._enqueue(OwnConnection(raw), draft)
            if draft.urgent and enqueued.created:
                self._stop_what_was_being_opened(draft)
            return enqueued
        with self._database.transaction() as connection:
            if reject_if_busy:
                lock_fence(connection, draft.session_id)
            return self._enqueue(SqlAlchemyConnection(connection), draft, only_if_idle=reject_if_busy)

    def _stop_what_was_being_opened(self, draft: BatchDraft) -> None:
        """Interrupt the turn of an opening that ran beside the sending: neither of the two has seen the other.

        After the batch has landed, so that no lock is held while it waits for somebody else's of the same key.
        """
        late = {"id": draft.id, "session_id": draft.session_id, "now_ms": self._database.now_override()}
        try:
            with self._database.transaction() as connection:
                lock_fence(connection, draft.session_id)
                connection.execute(text(_INTERRUPT_LATE.format(now=self._database.now_sql)), late)
        except StoreUnavailable:  # the batch is accepted all the same, and goes first
            _log.warning("no turn that is being opened could be interrupted", extra={"session_id": draft.session_id})

    def enqueue_with(
        self, connection: object, draft: BatchDraft, *, on_commit: Callable[[], None] | None = None
    ) -> CallerEnqueued:
        """A duplicate in another open transaction is waited for. Errors of the driver pass as they are."""
        caller = caller_connection(connection, schema=self._database.schema)
        self._require_our_database(caller)
        enqueued = self._enqueue(caller, draft)
        hooked = on_commit is not None and enqueued.created and caller.after_commit(on_commit)
        return CallerEnqueued(enqueued, hooked)

    def _enqueue(self, connection: CallerConnection, draft: BatchDraft, *, only_if_idle: bool = False) -> Enqueued:
        for _attempt in range(2):  # what we collide with may be gone before we can read it
            deleted, known, busy, created = self._put(connection, draft, only_if_idle)
            if created:
                return Enqueued(draft.id, draft.session_id, created=True)
            if deleted:
                raise SessionDeleted(draft.session_id)
            stored = _stored(connection, draft)
            if stored is not None:
                return stored
            if not known:
                raise _unknown_agent(connection, draft.agent)
            if busy:
                raise SessionBusy(draft.session_id, rejected_input=True)
        raise StoreUnavailable("the batch under this idempotency key was being removed; try again")

    def _put(
        self, connection: CallerConnection, draft: BatchDraft, only_if_idle: bool
    ) -> tuple[bool, bool, bool, bool]:
        """Insert the batch if the door lets it in and its key is free: (deleted, known, busy, created)."""
        parameters = {
            "id": draft.id,
            "session_id": draft.session_id,
            "agent": draft.agent,
            "source_key": draft.source_key,
            "input_digest": draft.input_digest,
            "context_digest": draft.context_digest,
            "early": draft.early,
            "exclusive": draft.exclusive,
            "merge_key": draft.merge_key,
            "replay_of": draft.replay_of,
            "payload": draft.payload,
            "available_at_ms": draft.available_at_ms,
            "kind": None if draft.kind is None else draft.kind.value,
            "urgent": draft.urgent,
            "quiet_ms": draft.quiet_ms,
            "now_ms": self._database.now_override(),
        }
        door = {"session_id": draft.session_id, "agent": draft.agent, "only_if_idle": only_if_idle}
        if self._database.dialect == "postgresql":
            refs, contents = [blob.ref for blob in draft.blobs], [blob.content for blob in draft.blobs]
            statement = _ENQUEUE_URGENT_POSTGRES if draft.urgent else _ENQUEUE_POSTGRES
            [row] = connection.run(statement, {**parameters, **door, "refs": refs, "contents": contents})
            deleted, known, busy, created = row
        else:
            [[deleted, known, busy]] = connection.run(_DOOR_SQLITE, door)
            admitted = known and not deleted and not busy
            created = admitted and bool(connection.run(_PUT_SQLITE, parameters))
            if created and draft.urgent:
                connection.run(_INTERRUPT_SQLITE, {name: parameters[name] for name in ("id", "session_id", "now_ms")})
            for blob in draft.blobs if created else ():
                attached = {**parameters, "ref": blob.ref, "content": blob.content}
                connection.run(_BLOB_SQLITE, attached)
                connection.run(_ATTACH_SQLITE, attached)
        return bool(deleted), bool(known), bool(busy), bool(created)

    def _require_our_database(self, connection: CallerConnection) -> None:
        theirs = identity(connection) if connection.dialect == self._database.dialect else None
        if theirs is not None and theirs != self._identity:
            with self._database.reading() as ours:  # for the first time, or since the server was restarted
                self._identity = identity(SqlAlchemyConnection(ours))
        if theirs is None or theirs != self._identity:
            raise StoreMismatch(
                "connection= reaches another database than the one with the lash tables; "
                "pass a connection to that one, or none"
            )

    # ------------------------------------------------------------ reading

    def find(
        self, session_id: SessionId, *, batch_id: BatchId | None = None, source_key: str | None = None
    ) -> BatchRecord | None:
        if self._database.dialect == "postgresql":
            by = _BY_ID if batch_id is not None else _BY_KEY
            found = self._database.ask(by, {"session_id": session_id, "name": batch_id or source_key})
            return batch_record(found[0]) if found else None
        by_name = batches.c.id == batch_id if batch_id is not None else batches.c.source_key == source_key
        with self._database.reading() as connection:
            row = connection.execute(select(*_RECORD).where(batches.c.session_id == session_id, by_name))
            stored = row.mappings().one_or_none()
        return None if stored is None else batch_record(stored)

    def waiting(self, session_id: SessionId | None = None, limit: int = 200) -> list[BatchRecord]:
        now = now_of(self._database)
        delayed_until = case(
            (batches.c.available_at_ms > now, batches.c.available_at_ms),
            (and_(in_state(BatchState.READY), is_held_back(batches, now)), quiet_until(batches)),
            else_=0,
        )
        query = (
            select(*_RECORD)
            .where(
                or_(in_state(BatchState.READY), in_state(BatchState.CLAIMED)), *_of(session_id, batches.c.session_id)
            )
            .order_by(case((in_state(BatchState.CLAIMED), 0), else_=1), delayed_until, *in_order(batches))
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [batch_record(row) for row in connection.execute(query).mappings()]

    def dead(self, session_id: SessionId | None = None, limit: int = 200) -> list[DeadLetter]:
        newest = (dead_letters.c.died_at_ms.desc(), dead_letters.c.batch_id)
        query = _dead_letters().where(*_of(session_id, dead_letters.c.session_id)).order_by(*newest).limit(limit)
        with self._database.reading() as connection:
            return [_dead_letter(row) for row in connection.execute(query).mappings()]

    def dead_letter(self, session_id: SessionId, batch_id: BatchId) -> DeadLetter | None:
        query = _dead_letters().where(dead_letters.c.session_id == session_id, dead_letters.c.batch_id == batch_id)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _dead_letter(row)

    # ------------------------------------------------------------ cancel, replay

    def cancel(self, session_id: SessionId, batch_id: BatchId) -> Cancellation | None:
        ours = (batches.c.session_id == session_id, batches.c.id == batch_id)
        take = update(batches).where(*ours, in_state(BatchState.READY)).returning(batches.c.seq)
        with self._database.transaction() as connection:
            end = {"state": BatchState.CANCELLED.value, "ended_at_ms": self._database.now()}
            if connection.execute(take.values(end)).first() is not None:
                return Cancellation(CancelVerdict.CANCELLED, batch_id)
            row = connection.execute(select(batches.c.state, batches.c.turn_id).where(*ours)).one_or_none()
        if row is None:
            return None
        verdict = CancelVerdict.TAKEN if row.state == BatchState.CLAIMED else CancelVerdict.ENDED
        return Cancellation(verdict, batch_id, None if row.turn_id is None else TurnId(row.turn_id))

    def replay(self, batch_id: BatchId, new_id: BatchId) -> Enqueued | None:
        with self._database.transaction() as connection:
            session_id = _session_of_dead(connection, batch_id)
            if session_id is None:
                return None
            insert_copy = text(_COPY.format(now=self._database.now_sql))
            parameters = {"id": batch_id, "new_id": new_id, "now_ms": self._database.now_override()}
            if connection.execute(insert_copy, parameters).first() is not None:
                return Enqueued(new_id, session_id, created=True)
            first = select(batches.c.id).where(batches.c.replay_of == batch_id)
            replayed_as = connection.execute(first).scalar_one_or_none()
            if replayed_as is None:  # the session was deleted in between, and its dead letters with it
                return None
            return Enqueued(BatchId(replayed_as), session_id, created=False)


# ---------------------------------------------------------------- rows and conditions

_RECORD = tuple(batches.c[field.name] for field in fields(BatchRecord))

# Whoever waits for an answer asks this first and last.
_FIND = f"SELECT {', '.join(column.name for column in _RECORD)} FROM lash_batches WHERE session_id = %(session_id)s"
_BY_ID = f"{_FIND} AND id = %(name)s"
_BY_KEY = f"{_FIND} AND source_key = %(name)s"

_COPY = """
INSERT INTO lash_batches (id, session_id, agent, input_digest, context_digest, early, exclusive, merge_key, kind,
  payload, replay_of, available_at_ms, enqueued_at_ms)
SELECT CAST(:new_id AS text), session_id, agent, input_digest, context_digest, early, exclusive, merge_key, kind,
  payload, id, {now}, {now}
FROM lash_batches WHERE id = :id
ON CONFLICT (replay_of) WHERE replay_of IS NOT NULL DO NOTHING RETURNING id"""


def _of(session_id: SessionId | None, column: ColumnElement[str]) -> list[ColumnElement[bool]]:
    return [] if session_id is None else [column == session_id]


def _stored(connection: CallerConnection, draft: BatchDraft) -> Enqueued | None:
    """The batch that has the draft's key, if it has the same input."""
    if draft.source_key is None:
        return None
    rows = connection.run(_STORED, {"session_id": draft.session_id, "source_key": draft.source_key})
    for batch_id, input_digest in rows:
        if input_digest != draft.input_digest:
            raise IdempotencyConflict(draft.session_id, draft.source_key)
        return Enqueued(BatchId(batch_id), draft.session_id, created=False)
    return None


def _unknown_agent(connection: CallerConnection, agent: str) -> UnknownAgent | NoWorkerHasRegistered:
    known = tuple(name for (name,) in connection.run(_AGENTS, {}))
    return UnknownAgent(agent, known) if known else NoWorkerHasRegistered(agent)


def _session_of_dead(connection: Connection, batch_id: BatchId) -> SessionId | None:
    query = (
        select(batches.c.session_id, sessions.c.deleted_at_ms)
        .join(dead_letters, dead_letters.c.batch_id == batches.c.id)
        .outerjoin(sessions, sessions.c.id == batches.c.session_id)
        .where(batches.c.id == batch_id)
    )
    row = connection.execute(query).one_or_none()
    if row is not None and row.deleted_at_ms is not None:
        raise SessionDeleted(row.session_id)
    return None if row is None else SessionId(row.session_id)


def _dead_letters() -> Select[Any]:
    replays = batches.alias("replays")
    return select(dead_letters, replays.c.id.label("replayed_as")).outerjoin(
        replays, replays.c.replay_of == dead_letters.c.batch_id
    )


def _dead_letter(row: RowMapping) -> DeadLetter:
    return DeadLetter(
        batch_id=BatchId(row["batch_id"]),
        session_id=SessionId(row["session_id"]),
        turn_id=TurnId(row["turn_id"]),
        reason=row["reason"],
        died_at_ms=row["died_at_ms"],
        replayed_as=None if row["replayed_as"] is None else BatchId(row["replayed_as"]),
    )
