"""A model call as the machine asks for it and as it comes back, in no provider's dialect (effects §13.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from lash_tasks.domain.agents import ToolSpec
from lash_tasks.domain.messages import Part, ReasoningPart, Role, TextPart, ToolCallPart
from lash_tasks.domain.models import ModelOptions
from lash_tasks.domain.usage import NO_USAGE, TokenUsage


@dataclass(frozen=True, slots=True)
class ModelMessage:
    """One message of the request. Roles are user and assistant only; tool results ride on user messages."""

    role: Role
    parts: tuple[Part, ...]
    wire: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """How providers have written this message, by their dialect: a memo that saves a long history from being written
    anew at every call."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the model is asked. `tools` empty means no tool may be called."""

    system: str
    messages: tuple[ModelMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    options: ModelOptions | None = None
    """None for the default ones."""


class TerminalReason(StrEnum):
    STOP = "stop"
    TOOL_USE = "tool_use"
    OUTPUT_LIMIT = "output_limit"
    CONTEXT_OVERFLOW = "context_overflow"
    CONTENT_FILTER = "content_filter"
    PROVIDER_ERROR = "provider_error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


ResponsePart = Annotated[TextPart | ReasoningPart | ToolCallPart, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """The model's final answer. Its strings are valid Unicode; call ids are as the provider sent them."""

    parts: tuple[ResponsePart, ...]
    usage: TokenUsage = NO_USAGE
    terminal_reason: TerminalReason = TerminalReason.UNKNOWN
    diagnostic: str | None = None


@dataclass(frozen=True, slots=True)
class ModelError:
    """A model call that failed for good, as it is recorded and shown. Holds no secret."""

    message: str
    code: str
    terminal_reason: TerminalReason = TerminalReason.PROVIDER_ERROR
    raw: str | None = None
    retryable: bool = False
    """Whether the same call might have succeeded later: then another model may be asked."""


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """The recorded outcome of a model call: exactly one of the two."""

    response: ModelResponse | None = None
    error: ModelError | None = None
