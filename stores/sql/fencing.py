"""The lock of a session's fence, for those that change a session beside its turns."""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from lash_tasks.domain.ids import SessionId, fence_scope
from lash_tasks.stores.sql.tables import fences

_LOCK = text(
    "INSERT INTO lash_fences (scope) VALUES (:scope) ON CONFLICT (scope) DO UPDATE SET fence = lash_fences.fence"
)


def lock_fence(connection: Connection, session_id: SessionId) -> None:
    """Keep openings and commits of the session out until the transaction ends; wait for those that are under way.

    On Postgres, what they have left is only seen by a statement that comes after this one.
    """
    connection.execute(_LOCK, {"scope": fence_scope(session_id)})


def share_fence(connection: Connection, session_id: SessionId) -> None:
    """Keep openings and commits out and let what runs go on writing its journal, for those that only read."""
    held = select(fences.c.fence).where(fences.c.scope == fence_scope(session_id))
    connection.execute(held.with_for_update(read=True))
