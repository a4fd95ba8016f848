"""How sessions come to be, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, select, text, update

from lash_tasks.domain.codec import UNREADABLE, canonical, decode
from lash_tasks.domain.founding import NewSession, Preview, seeded_messages
from lash_tasks.domain.ids import SessionId, fence_scope
from lash_tasks.domain.messages import Message
from lash_tasks.domain.policies import NOTHING_SAID_OVER, SessionSpec
from lash_tasks.domain.sessions import SessionHead, graft
from lash_tasks.errors import HeadRevisionConflict, NotFound, SessionAlreadyExists, SessionBusy, SessionDeleted
from lash_tasks.stores.sql.conditions import has_no_turn, now_of, said_by_user
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fencing import lock_fence, share_fence
from lash_tasks.stores.sql.paths import PATH_AS_SHOWN
from lash_tasks.stores.sql.rows import Row, content_bytes, node_kind, session_head
from lash_tasks.stores.sql.sessions import clear_session
from lash_tasks.stores.sql.tables import attachments, batches, fences, frames, nodes, sessions, states, turns


class SqlSessionRegistry:
    """`SessionRegistry` on Postgres and SQLite. The lock of a fence keeps turns and other registrars out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewSession) -> SessionHead:
        with self._database.transaction() as connection:
            _former(connection, new.session_id)  # who comes too late waits for nobody and holds nobody up
            _lock_fences(connection, new)
            self._found(connection, new, _former(connection, new.session_id))
            return session_head(_required(connection, new.session_id))

    def begin_anew(self, new: NewSession, expected_revision: int) -> SessionHead:
        with self._database.transaction() as connection:
            lock_fence(connection, new.session_id)
            row = _required(connection, new.session_id)
            if not connection.execute(select(has_no_turn(sessions.c.id)).where(sessions.c.id == row["id"])).scalar():
                raise SessionBusy(new.session_id)
            if row["head_revision"] != expected_revision:
                raise HeadRevisionConflict(new.session_id, expected_revision, row["head_revision"])
            self._forget_what_it_showed(connection, new.session_id)
            if new.name is not None:
                connection.execute(update(sessions).where(sessions.c.id == new.session_id).values(name=new.name))
            self._enter(connection, new, row["head_revision"] + 1, row["turn_index"], session_head(row).spec)
            self._add_seeds(connection, new, row["head_revision"] + 1, [])
            return session_head(_required(connection, new.session_id))

    def agent_of(self, session_id: SessionId) -> str | None:
        with self._database.reading() as connection:
            return _agent_of(connection, session_id)

    def rename(self, session_id: SessionId, name: str) -> bool:
        named = update(sessions).where(sessions.c.id == session_id, sessions.c.deleted_at_ms.is_(None))
        with self._database.transaction() as connection:
            return connection.execute(named.values(name=name)).rowcount == 1

    def children(self, session_id: SessionId) -> list[SessionHead]:
        query = (
            select(sessions)
            .where(sessions.c.parent_id == session_id, sessions.c.deleted_at_ms.is_(None))
            .order_by(sessions.c.created_at_ms, sessions.c.id)
        )
        with self._database.reading() as connection:
            return [session_head(row) for row in connection.execute(query).mappings()]

    def previews(self, session_ids: Sequence[SessionId]) -> dict[SessionId, Preview]:
        found = dict.fromkeys(session_ids, Preview())
        of_session = nodes.c.session_id
        said = (
            select(
                of_session,
                nodes.c.revision,
                nodes.c.ordinal,
                func.count().over(partition_by=of_session).label("messages"),
                func.row_number()
                .over(partition_by=of_session, order_by=[nodes.c.revision, nodes.c.ordinal])
                .label("n"),
            )
            .where(
                of_session.in_(session_ids),
                nodes.c.kind.is_(None),
                nodes.c.tombstoned_at_ms.is_(None),
                said_by_user(nodes.c.message, self._database.dialect),
            )
            .subquery()
        )
        first = and_(*(nodes.c[name] == said.c[name] for name in ("session_id", "revision", "ordinal")))
        query = select(of_session, nodes.c.message, said.c.messages).join(said, first).where(said.c.n == 1)
        with self._database.reading() as connection:
            for row in connection.execute(query):
                found[SessionId(row.session_id)] = Preview(_beginning(row.message), row.messages)
        return found

    # ------------------------------------------------------------ steps

    def _found(self, connection: Connection, new: NewSession, former: Row | None) -> None:
        """Write the session's row and what it begins with."""
        source = None if new.source_id is None else _required(connection, new.source_id)
        parent = None if new.parent_id is None else _required(connection, new.parent_id)
        beneath = source or parent
        base = NOTHING_SAID_OVER if beneath is None else _said_with_agent(connection, beneath)
        turn_index = max(former["turn_index"] if former else 0, source["turn_index"] if source else 0)
        revision = (former["head_revision"] if former else 0) + 1
        meta = {
            "name": new.name,
            "parent_id": new.parent_id,
            "caused_by": None if new.caused_by is None else canonical(new.caused_by).decode(),
            "usage_source": new.usage_source,
            "created_at_ms": now_of(self._database),
            "deleted_at_ms": None,
        }
        if former is None:
            connection.execute(insert(sessions).values(id=new.session_id, **meta))
        else:
            # Input that was being sent when the session was deleted has come in behind the deletion.
            clear_session(connection, new.session_id)
            connection.execute(update(sessions).where(sessions.c.id == new.session_id).values(**meta))
        if former is None and source is None and not new.seeds:
            spec = new.spec.over(base).stored()
            connection.execute(update(sessions).where(sessions.c.id == new.session_id).values(spec=spec))
            return
        self._enter(connection, new, revision, turn_index, base)
        copied = [] if source is None else _shown(connection, source)
        self._add_seeds(connection, new, revision, copied)
        if source is not None:
            _copy_attachments(connection, SessionId(source["id"]), new.session_id)

    def _enter(
        self, connection: Connection, new: NewSession, revision: int, turn_index: int, base: SessionSpec
    ) -> None:
        """Let the session show what comes with `revision` and later, in its initial frame."""
        connection.execute(
            update(sessions)
            .where(sessions.c.id == new.session_id)
            .values(
                head_revision=revision,
                turn_index=turn_index,
                path_revision=revision,
                visible_from=revision,
                branched=False,
                leaf_revision=None,
                leaf_ordinal=None,
                frame_id=None,
                spec=new.spec.over(base).stored(),
            )
        )
        connection.execute(
            update(fences).where(fences.c.scope == fence_scope(new.session_id)).values(fence=fences.c.fence + 1)
        )

    def _add_seeds(self, connection: Connection, new: NewSession, revision: int, copied: Sequence[Row]) -> None:
        """The nodes that the session begins with: copies of a source's, and its own behind them."""
        rows = [{"node_id": node["node_id"], "message": node["message"], "kind": node["kind"]} for node in copied]
        seeds = graft(seeded_messages(new.seeds), None, seed=f"{new.session_id}/{revision}")
        rows += [{"node_id": one.node_id, "message": content_bytes(one), "kind": node_kind(one)} for one in seeds]
        parent: str | None = None
        for ordinal, row in enumerate(rows):
            row |= {"session_id": new.session_id, "revision": revision, "ordinal": ordinal, "parent_id": parent}
            parent = str(row["node_id"])
        if rows:
            connection.execute(insert(nodes), rows)

    def _forget_what_it_showed(self, connection: Connection, session_id: SessionId) -> None:
        """Hide the nodes until vacuum removes them, and drop what belonged to them. Their images go as late as they."""
        shown = update(nodes).where(nodes.c.session_id == session_id, nodes.c.tombstoned_at_ms.is_(None))
        connection.execute(shown.values(tombstoned_at_ms=now_of(self._database)))
        for table in (frames, states):
            connection.execute(delete(table).where(table.c.session_id == session_id))
        unused = update(attachments).where(attachments.c.session_id == session_id)
        connection.execute(unused.values(committed_at_ms=None, intent_at_ms=now_of(self._database)))


def _beginning(stored: bytes) -> str | None:
    """What a user's message says; None if it cannot be read, which is told by whoever reads the transcript."""
    try:
        message: Message = decode(Message, stored)
    except UNREADABLE:
        return None
    return Preview().with_message(message).first_user_message


def _row(connection: Connection, session_id: SessionId) -> Row | None:
    return connection.execute(select(sessions).where(sessions.c.id == session_id)).mappings().one_or_none()


def _required(connection: Connection, session_id: SessionId) -> Row:
    row = _row(connection, session_id)
    if row is None:
        raise NotFound("session", session_id)
    if row["deleted_at_ms"] is not None:
        raise SessionDeleted(session_id)
    return row


def _agent_of(connection: Connection, session_id: str) -> str | None:
    # The sum keeps the planner off the primary key: of an idle session it would walk back through everybody's input.
    newest_first = (batches.c.seq + 0).desc()
    inputs = select(batches.c.agent).where(batches.c.session_id == session_id).order_by(newest_first)
    past = select(turns.c.agent).where(turns.c.session_id == session_id).order_by(turns.c.turn_index.desc())
    newest = connection.execute(inputs.limit(1)).scalar() or connection.execute(past.limit(1)).scalar()
    return newest or _agent_said(_row(connection, SessionId(session_id)))


def _agent_said(row: Row | None) -> str | None:
    return None if row is None else session_head(row).spec.agent


def _said_with_agent(connection: Connection, session: Row) -> SessionSpec:
    """What a session says over its agent's policy, and which agent it has by now."""
    return SessionSpec({"agent": _agent_of(connection, session["id"])}).over(session_head(session).spec)


def _former(connection: Connection, session_id: SessionId) -> Row | None:
    """The tombstone of the deleted session that had this id. Raises SessionAlreadyExists."""
    row = _row(connection, session_id)
    if _is_sent_to(connection, session_id) if row is None else row["deleted_at_ms"] is None:
        raise SessionAlreadyExists(session_id)
    return row


def _lock_fences(connection: Connection, new: NewSession) -> None:
    """Each in its way, in the order of their scopes, as all do that lock several."""
    locks = {new.session_id: lock_fence}
    if new.source_id is not None:
        locks.setdefault(new.source_id, share_fence)
    for session_id in sorted(locks, key=fence_scope):
        locks[session_id](connection, session_id)


def _is_sent_to(connection: Connection, session_id: SessionId) -> bool:
    return bool(connection.execute(select(exists().where(batches.c.session_id == session_id))).scalar())


def _shown(connection: Connection, session: Row) -> Sequence[Row]:
    """The rows of the nodes that a session shows, oldest first."""
    if session["branched"]:
        return connection.execute(text(PATH_AS_SHOWN), {"session_id": session["id"]}).mappings().all()
    in_frame: ColumnElement[bool] = nodes.c.frame_id.is_not_distinct_from(session["frame_id"])
    query = select(nodes).where(
        nodes.c.session_id == session["id"],
        nodes.c.revision >= session["visible_from"],
        in_frame,
        nodes.c.tombstoned_at_ms.is_(None),
    )
    return connection.execute(query.order_by(nodes.c.revision, nodes.c.ordinal)).mappings().all()


# A sender that raced the deletion of the target's former self may have left one of them.
_COPY_ATTACHMENTS = text("""
INSERT INTO lash_attachments (session_id, ref, intent_at_ms, committed_at_ms)
SELECT CAST(:target AS text), a.ref, a.intent_at_ms, a.committed_at_ms FROM lash_attachments a
WHERE a.session_id = :source AND a.committed_at_ms IS NOT NULL
ON CONFLICT (session_id, ref) DO UPDATE SET committed_at_ms = excluded.committed_at_ms""")


def _copy_attachments(connection: Connection, source: SessionId, target: SessionId) -> None:
    connection.execute(_COPY_ATTACHMENTS, {"source": source, "target": target})
