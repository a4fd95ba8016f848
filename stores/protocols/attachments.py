"""Which session refers to which bytes, and what becomes of bytes that nobody refers to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lash_tasks.domain.ids import BlobRef, SessionId


@dataclass(frozen=True, slots=True)
class Attachment:
    """Bytes of a session. Written with them, so that whoever dies in between leaves neither or both."""

    session_id: SessionId
    ref: BlobRef
    intent_at_ms: int
    committed_at_ms: int | None
    """None until a turn has taken them into the history."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One pass over the blobs."""

    roots: int
    """Of those looked at, how many something refers to."""
    retained: int
    """How many stay: these, and the young."""
    deleted: int


class AttachmentStore(Protocol):
    """The manifest of blobs. The same bytes in two sessions are two attachments of one blob."""

    def committed(self, session_id: SessionId) -> list[BlobRef]:
        """What the session's history refers to, each once, sorted."""
        ...

    def uncommitted(self, older_than_ms: int, limit: int = 200) -> list[Attachment]:
        """What was announced so long ago or longer and no turn has committed, oldest first."""
        ...

    def forget(self, session_id: SessionId, ref: BlobRef) -> bool:
        """Let go of an attachment that no turn has committed. False if there is none."""
        ...

    def gc(self, grace_ms: int, limit: int = 1000) -> Collected:
        """Look at the next `limit` blobs, and delete those that nothing refers to and nobody has put for `grace_ms`.

        A pass goes on where the one before has ended, and after the last blob with the first. It reads all references
        before it deletes anything, and deletes nothing if one of them cannot be read. What somebody is just putting is
        left alone.
        """
        ...
