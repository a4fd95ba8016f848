"""How a session comes to be: what it is called, whose child it is, and what it begins with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.frames import Seed
from lash_tasks.domain.ids import MessageId, SessionId
from lash_tasks.domain.messages import ImagePart, Message, Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.policies import NOTHING_SAID_OVER, SessionSpec

CHILD_USAGE = "child"
"""The label of a child's usage in its parent's report, if it was given none."""


class Start(StrEnum):
    """What a new session begins with."""

    EMPTY = "empty"
    CURRENT_SESSION = "current_session"
    """What its parent shows when it is created."""
    EXISTING_SESSION = "existing_session"
    """What another session shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session that is to be, checked."""

    session_id: SessionId
    name: str | None = None
    parent_id: SessionId | None = None
    caused_by: JsonObject | None = None
    usage_source: str | None = None
    spec: SessionSpec = NOTHING_SAID_OVER
    """Laid over that of the session it begins with, else over that of its parent."""
    source_id: SessionId | None = None
    """The session whose visible transcript it begins with; None: it begins empty."""
    seeds: tuple[Seed, ...] = ()
    """Messages that follow the copied ones."""


def seeded_messages(seeds: tuple[Seed, ...]) -> tuple[Message, ...]:
    """The messages that a session begins with; they get their ids with their places."""
    return tuple(Message(MessageId(""), seed.role, seed.parts, seed.origin) for seed in seeds)


@dataclass(frozen=True, slots=True)
class Preview:
    """What tells a session from others in a list: how it began, and how much was said."""

    first_user_message: str | None = None
    user_message_count: int = 0

    def with_message(self, message: Message) -> Preview:
        """With the next stored message; what tools answered counts as nobody's."""
        said = [part for part in message.parts if not isinstance(part, ToolCallPart | ToolResultPart)]
        ours = message.origin is not None and message.origin.kind == "runtime"
        if message.role is not Role.USER or not said or ours:
            return self
        first = self.first_user_message
        if first is None:
            texts = (
                "[Image attached]" if isinstance(part, ImagePart) else part.text
                for part in said
                if isinstance(part, ImagePart | TextPart)
            )
            first = "\n\n".join(texts)
        return Preview(first, self.user_message_count + 1)


def rfc3339(epoch_ms: int) -> str:
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
