"""Messages and their parts: the transcript of a session, in no provider's dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import BlobRef, CallId, MessageId


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str
    meta: JsonObject | None = None
    """What the provider wants back with this text (item id, phase); opaque to us."""
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in the blob store. Bytes are loaded by whoever calls the provider."""

    blob: BlobRef
    media_type: str
    label: str
    type: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    text: str
    replay: JsonObject | None = None
    """Opaque provider data that lets the reasoning be sent back; without it the part is not sent."""
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    call_id: CallId
    tool: str
    arguments: str
    """The arguments as the model wrote them: JSON text, perhaps malformed."""
    type: Literal["tool_call"] = "tool_call"


class ToolStatus(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    call_id: CallId
    tool: str
    text: str
    """What the model reads: a string result as it is, other JSON compact, a failure with its headline."""
    status: ToolStatus = ToolStatus.SUCCESS
    type: Literal["tool_result"] = "tool_result"


Part = Annotated[TextPart | ImagePart | ReasoningPart | ToolCallPart | ToolResultPart, Field(discriminator="type")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOrigin:
    """The event of a process that a message tells of."""

    process_id: str
    event_type: str
    sequence: int
    wake_id: str
    caused_by: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from when it is not simply the user or the model."""

    kind: Literal["injected", "runtime", "plugin", "process"]
    batch_id: str | None = None
    source_key: str | None = None
    transient: Literal[True] | None = None
    """Of a plugin: for the model's eyes now, and never kept."""
    process: ProcessOrigin | None = None
    plugin: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    id: MessageId
    role: Role
    parts: tuple[Part, ...]
    origin: Origin | None = None

    @property
    def is_transient(self) -> bool:
        return self.origin is not None and self.origin.transient is True


def text_of(message: Message) -> str:
    """The message's text parts, joined by blank lines."""
    return text_of_parts(message.parts)


def text_of_parts(parts: Sequence[Part]) -> str:
    return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))


def images(message: Message | None) -> list[BlobRef]:
    """The images that the message shows."""
    return [] if message is None else [part.blob for part in message.parts if isinstance(part, ImagePart)]


def unanswered_calls(messages: tuple[Message, ...]) -> tuple[ToolCallPart, ...]:
    """Tool calls without a result, in order. A history that is committed has none (effects §17)."""
    open_calls: dict[CallId, ToolCallPart] = {}
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                open_calls[part.call_id] = part
            elif isinstance(part, ToolResultPart):
                open_calls.pop(part.call_id, None)
    return tuple(open_calls.values())


def without_broken_rounds(messages: list[Message]) -> list[Message]:
    """The messages without tool calls that have no result and results that have no call: providers refuse both.

    A committed turn has neither. A path that branches off in the middle of a round, or has lost a node, may.
    """
    open_calls: dict[CallId, tuple[int, int]] = {}  # ids are unique within a turn only
    broken: set[tuple[int, int]] = set()
    for at, message in enumerate(messages):
        for index, part in enumerate(message.parts):
            if isinstance(part, ToolCallPart):
                if part.call_id in open_calls:
                    broken.add(open_calls[part.call_id])
                open_calls[part.call_id] = (at, index)
            elif isinstance(part, ToolResultPart) and open_calls.pop(part.call_id, None) is None:
                broken.add((at, index))
    broken.update(open_calls.values())
    if not broken:
        return messages
    return [
        replace(message, parts=tuple(part for index, part in enumerate(message.parts) if (at, index) not in broken))
        for at, message in enumerate(messages)
    ]
