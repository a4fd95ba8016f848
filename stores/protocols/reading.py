"""What is committed, for reading, and the bytes that rows point at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lash_tasks.domain.ids import BlobRef, SessionId, TurnId
from lash_tasks.domain.sessions import SessionHead, StoredNode
from lash_tasks.domain.turns import TurnRecord
from lash_tasks.domain.usage import TokenUsage, UsageTotal
from lash_tasks.errors import NotFound


@dataclass(frozen=True, slots=True)
class StoredState:
    """A named state of a session as its last commit left it."""

    name: str
    generation: int
    ref: BlobRef
    content: bytes | None
    """None if it is gone."""

    @property
    def body(self) -> bytes:
        """What was stored; NotFound if it is gone."""
        if self.content is None:
            raise NotFound(f"body of the state {self.name}", self.ref)
        return self.content


class SessionStore(Protocol):
    """What is committed, for reading; and the end of a session."""

    def head(self, session_id: SessionId) -> SessionHead | None: ...

    def sessions(self, limit: int = 100, after: SessionId | None = None) -> list[SessionHead]:
        """Sessions that are not deleted, by id, from after `after` on."""
        ...

    def history(self, session_id: SessionId, after_revision: int = 0) -> list[StoredNode]:
        """What the next turn sees, oldest first: nodes of the current frame on the active path."""
        ...

    def states(self, session_id: SessionId) -> list[StoredState]:
        """The session's named states."""
        ...

    def turn(self, session_id: SessionId, turn_id: TurnId) -> TurnRecord | None: ...

    def turns(self, session_id: SessionId, limit: int = 100, after_index: int = 0) -> list[TurnRecord]:
        """Turns of a session by index, the unfinished one included."""
        ...

    def usage(self, session_id: SessionId | None = None, since_ms: int = 0) -> list[UsageTotal]:
        """What committed turns have used, of one session or of all that are not deleted, by source and model.

        With `since_ms` only what was committed then or later.
        """
        ...

    def children_usage(self, session_id: SessionId, since_ms: int = 0) -> list[UsageTotal]:
        """What the session's children have used, with theirs, by the label that each child was given and by model.

        Read from the children's own rows, so that `usage` of all sessions counts nothing twice.
        """
        ...

    def last_call(self, session_id: SessionId) -> TokenUsage | None:
        """What the last model call of the newest turn that made one has used (source `turn`)."""
        ...

    def delete(self, session_id: SessionId, *, only_if_idle: bool = False, purge: bool = False) -> bool:
        """Tombstone the session, break the fence of whoever drives it, remove its rows but keep its fence.

        Every later enqueue is SessionDeleted and every later commit is fenced; its children stay. With `only_if_idle`
        SessionBusy while a turn of it is unfinished. With `purge` bytes that only this session referred to go too,
        which are otherwise collected later. Idempotent; False if unknown.
        """
        ...


class BlobStore(Protocol):
    """Content-addressed bytes."""

    def put(self, contents: Sequence[bytes]) -> list[BlobRef]:
        """Store what is not there yet. Idempotent. Young blobs are not collected, and each put makes one young."""
        ...

    def get(self, ref: BlobRef) -> bytes:
        """The bytes; NotFound."""
        ...
