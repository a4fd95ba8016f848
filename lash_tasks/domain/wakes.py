"""Wakes: what a background process tells a session, on its way through the queue and as a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lash_tasks.domain.codec import OMITTED, JsonObject
from lash_tasks.domain.ids import MessageId
from lash_tasks.domain.inputs import context_digest
from lash_tasks.domain.messages import Message, Origin, ProcessOrigin, Role, TextPart


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedWake:
    """An event of a process that the session is to know of. `context` is the caller's, as of an input."""

    agent: str
    process_id: str
    event_type: str
    sequence: int
    wake_id: str
    text: str
    caused_by: Annotated[JsonObject | None, OMITTED] = None
    context: Annotated[JsonObject | None, OMITTED] = None

    @property
    def model(self) -> None:
        """A wake says nothing about who answers it."""
        return None

    def context_digest(self) -> str:
        return context_digest(self.context)

    @property
    def source_key(self) -> str:
        """One event wakes a session once."""
        return f"process:{self.process_id}:event:{self.sequence}:wake"


def wake_message(wake: QueuedWake) -> Message:
    """The message that the session keeps of a wake: its id is the wake's, so that it stands there once."""
    lines = (
        "Background process wake",
        f"Process: {wake.process_id}",
        f"Event: {wake.event_type} #{wake.sequence}",
        "Wake input:",
        wake.text,
    )
    origin = ProcessOrigin(
        process_id=wake.process_id,
        event_type=wake.event_type,
        sequence=wake.sequence,
        wake_id=wake.wake_id,
        caused_by=wake.caused_by,
    )
    return Message(
        MessageId(wake.wake_id), Role.EVENT, (TextPart("\n".join(lines)),), Origin("process", process=origin)
    )
