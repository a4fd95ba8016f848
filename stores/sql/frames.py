"""FrameStore in SQL. The initial frame is made from the session's row and its first turn."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, select

from lash_tasks.domain.codec import JsonObject, parse
from lash_tasks.domain.frames import (
    INITIAL,
    FrameRecord,
    FrameStatus,
    initial_frame_id,
    shown_frame_id,
    stored_frame_id,
)
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.sessions import StoredNode
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.graph import frame_history
from lash_tasks.stores.sql.tables import frames, sessions, turns


class SqlFrameStore:
    """`FrameStore` on Postgres and SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def frames(self, session_id: SessionId) -> list[FrameRecord]:
        with self._database.reading() as connection:
            return _frames(connection, session_id, None)

    def frame(self, session_id: SessionId, frame_id: str) -> FrameRecord | None:
        with self._database.reading() as connection:
            return next(iter(_frames(connection, session_id, frame_id)), None)

    def history(self, session_id: SessionId, frame_id: str) -> list[StoredNode]:
        with self._database.reading() as connection:
            return frame_history(connection, session_id, stored_frame_id(session_id, frame_id))


def _frames(connection: Connection, session_id: SessionId, only: str | None) -> list[FrameRecord]:
    living = sessions.c.id == session_id, sessions.c.deleted_at_ms.is_(None)
    session = connection.execute(select(sessions).where(*living)).mappings().one_or_none()
    if session is None:
        return []
    found = [_initial(connection, session)] if only in (None, initial_frame_id(session_id)) else []
    query = select(frames).where(frames.c.session_id == session_id)
    if only is not None:
        query = query.where(frames.c.frame_id == only)
    rows = connection.execute(query.order_by(frames.c.opened_revision)).mappings()
    return found + [_frame(row, session) for row in rows]


def _initial(connection: Connection, session: RowMapping) -> FrameRecord:
    session_id = SessionId(session["id"])
    first_turn = select(turns.c.agent).where(turns.c.session_id == session_id).order_by(turns.c.turn_index).limit(1)
    agent: str | None = connection.execute(first_turn).scalar()
    given = {"agent": agent, "usage_source": session["usage_source"]}
    return FrameRecord(
        session_id=session_id,
        frame_id=initial_frame_id(session_id),
        previous_frame_id=None,
        status=_status(None, session),
        reason=INITIAL,
        assignment={name: value for name, value in given.items() if value is not None},
        created_at_ms=session["created_at_ms"],
    )


def _frame(row: RowMapping, session: RowMapping) -> FrameRecord:
    session_id = SessionId(row["session_id"])
    assignment: JsonObject = parse(row["assignment"])
    caused_by: JsonObject | None = None if row["caused_by"] is None else parse(row["caused_by"])
    return FrameRecord(
        session_id=session_id,
        frame_id=row["frame_id"],
        previous_frame_id=shown_frame_id(session_id, row["previous_id"]),
        status=_status(row["frame_id"], session),
        reason=row["reason"],
        assignment=assignment,
        created_at_ms=row["created_at_ms"],
        opened_revision=row["opened_revision"],
        caused_by=caused_by,
    )


def _status(frame_id: str | None, session: RowMapping) -> FrameStatus:
    return FrameStatus.ACTIVE if frame_id == session["frame_id"] else FrameStatus.SUPERSEDED
