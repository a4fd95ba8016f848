"""The frames of a session, for reading. They are opened by a turn's commit."""

from __future__ import annotations

from typing import Protocol

from lash_tasks.domain.frames import FrameRecord
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.sessions import StoredNode


class FrameStore(Protocol):
    """Every frame that a session ever had, never changed. The last one is active, until a branch goes back."""

    def frames(self, session_id: SessionId) -> list[FrameRecord]:
        """Oldest first, so the initial frame, which has no row, comes first. Empty for an unknown session."""
        ...

    def frame(self, session_id: SessionId, frame_id: str) -> FrameRecord | None: ...

    def history(self, session_id: SessionId, frame_id: str) -> list[StoredNode]:
        """What a frame shows, or showed when it was left, oldest first. Tombstoned nodes are hidden."""
        ...
