"""The manifest of blobs in SQL, and the collection of those that nothing refers to.

A blob is put and touched in one statement by everybody who comes to refer to it, in the transaction that brings the
reference. So whoever deletes blobs that were not touched for a while, and skips those that are locked, cannot miss a
reference that is on its way. Blobs of before there was a manifest were never touched and stay so: they are kept.
"""

from __future__ import annotations

import threading

from sqlalchemy import ColumnElement, Connection, delete, exists, or_, select, tuple_

from lash_tasks.domain.ids import BlobRef, SessionId
from lash_tasks.domain.queue import BatchState
from lash_tasks.stores.protocols import Attachment, Collected
from lash_tasks.stores.sql.conditions import in_state, now_of
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import attachments, batches, blobs, dead_letters, effects, sessions, states

TOUCH = "touched_at_ms = CASE lash_blobs.touched_at_ms WHEN 0 THEN 0 ELSE excluded.touched_at_ms END"
"""What ON CONFLICT DO UPDATE sets in lash_blobs."""


class SqlAttachmentStore:
    """`AttachmentStore` on Postgres and SQLite.

    The first pass looks at what comes after the ref `after`. It should differ from worker to worker: whichever is up
    makes the next pass, and many that began at the same place would never come to the end.
    """

    def __init__(self, database: Database, after: str = "") -> None:
        self._database = database
        self._lock = threading.Lock()
        self._after = after
        """Where the next pass begins."""

    def committed(self, session_id: SessionId) -> list[BlobRef]:
        query = select(attachments.c.ref).where(
            attachments.c.session_id == session_id, attachments.c.committed_at_ms.is_not(None)
        )
        with self._database.reading() as connection:
            return sorted(map(BlobRef, connection.execute(query).scalars()))

    def uncommitted(self, older_than_ms: int, limit: int = 200) -> list[Attachment]:
        query = (
            select(attachments)
            .where(
                attachments.c.committed_at_ms.is_(None),
                attachments.c.intent_at_ms <= now_of(self._database) - older_than_ms,
            )
            .order_by(attachments.c.intent_at_ms, attachments.c.session_id, attachments.c.ref)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Attachment(*row) for row in connection.execute(query)]

    def forget(self, session_id: SessionId, ref: BlobRef) -> bool:
        forgotten = delete(attachments).where(
            attachments.c.session_id == session_id, attachments.c.ref == ref, attachments.c.committed_at_ms.is_(None)
        )
        with self._database.transaction() as connection:
            return connection.execute(forgotten).rowcount == 1

    def gc(self, grace_ms: int, limit: int = 1000) -> Collected:
        if limit <= 0:
            return Collected(0, 0, 0)
        old = _put_before(now_of(self._database) - grace_ms)
        with self._lock:
            query = select(blobs.c.ref, _is_referred_to().label("referred"), old.label("old")).order_by(blobs.c.ref)
            with self._database.transaction() as connection:
                looked = list(connection.execute(query.where(blobs.c.ref > self._after).limit(limit)))
                if len(looked) < limit:
                    from_the_start = query.where(blobs.c.ref <= self._after).limit(limit - len(looked))
                    looked += connection.execute(from_the_start)
                over = [row.ref for row in looked if row.old and not row.referred]
                deleted = _delete(connection, over, old) if over else 0
            if looked:
                self._after = looked[-1].ref
        return Collected(sum(row.referred for row in looked), len(looked) - deleted, deleted)


def prune_attachments(connection: Connection, database: Database, after_ms: int, limit: int) -> int:
    """Let go of what no turn will commit any more: the session is gone, or has no input left that could bring it.

    The blobs are locked first, and whoever is just putting one holds that lock: what comes anew is not taken for old.
    """
    before = now_of(database) - after_ms
    waiting = exists().where(
        batches.c.session_id == attachments.c.session_id,
        or_(in_state(BatchState.READY), in_state(BatchState.CLAIMED)),
    )
    buried = exists().where(dead_letters.c.session_id == attachments.c.session_id)
    deleted = exists().where(sessions.c.id == attachments.c.session_id, sessions.c.deleted_at_ms.is_not(None))
    left = (
        attachments.c.committed_at_ms.is_(None),
        attachments.c.intent_at_ms < before,
        or_(deleted, ~waiting & ~buried),
    )
    refs = connection.execute(select(attachments.c.ref).where(*left).distinct().limit(limit)).scalars().all()
    untouched = select(blobs.c.ref).where(blobs.c.ref.in_(refs), blobs.c.touched_at_ms < before)
    free = connection.execute(untouched.with_for_update(skip_locked=True)).scalars().all()
    key = tuple_(attachments.c.session_id, attachments.c.ref)
    over = select(attachments.c.session_id, attachments.c.ref).where(attachments.c.ref.in_(free), *left).limit(limit)
    return connection.execute(delete(attachments).where(key.in_(over))).rowcount if free else 0


def _is_referred_to() -> ColumnElement[bool]:
    return or_(
        exists().where(attachments.c.ref == blobs.c.ref),
        exists().where(effects.c.outcome_ref == blobs.c.ref),
        exists().where(states.c.ref == blobs.c.ref),
    )


def _put_before(before_ms: ColumnElement[int]) -> ColumnElement[bool]:
    return (blobs.c.touched_at_ms > 0) & (blobs.c.touched_at_ms < before_ms)


def _delete(connection: Connection, refs: list[str], old: ColumnElement[bool]) -> int:
    free = select(blobs.c.ref).where(blobs.c.ref.in_(refs), old, ~_is_referred_to()).with_for_update(skip_locked=True)
    return connection.execute(delete(blobs).where(blobs.c.ref.in_(free))).rowcount
