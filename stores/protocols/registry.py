"""How sessions come to be, whose children they are, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lash_tasks.domain.founding import NewSession, Preview
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.sessions import SessionHead


class SessionRegistry(Protocol):
    """Sessions come to be here on purpose. One that is only sent to comes to be with its first turn."""

    def create(self, new: NewSession) -> SessionHead:
        """Create the session, with a copy of what its source shows at this moment, if it has one.

        The copy is the first revision of the new session, in its initial frame; the source's turn index goes on, its
        usage does not, and the source stays as it is, also while a turn of it runs. SessionAlreadyExists for an id
        that is there, also one that was only sent to, and then nothing is written. A deleted session comes to be
        again, empty, with its fence, revision and turn index going on. NotFound or SessionDeleted for a parent or
        source that is not there.
        """
        ...

    def begin_anew(self, new: NewSession, expected_revision: int) -> SessionHead:
        """Let a session that is there show nothing but `new.seeds`, for good, and lay `new.spec` over its own.

        What it showed can no longer be reached. Its name, unless it is given one, its relation, its usage and its
        waiting input stay.
        HeadRevisionConflict unless it is at `expected_revision`, SessionBusy while a turn of it is unfinished,
        NotFound, SessionDeleted; then nothing is written.
        """
        ...

    def agent_of(self, session_id: SessionId) -> str | None:
        """The agent of the session's newest input or turn, else the one it was created for; None if nothing says."""
        ...

    def rename(self, session_id: SessionId, name: str) -> bool:
        """Give the session a name; nothing else changes one. False if there is no such session."""
        ...

    def children(self, session_id: SessionId) -> list[SessionHead]:
        """The session's children that are not deleted, oldest first."""
        ...

    def previews(self, session_ids: Sequence[SessionId]) -> dict[SessionId, Preview]:
        """How each of the sessions began and how much was said in it, from all that is stored of it."""
        ...
