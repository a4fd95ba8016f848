"""How a transcript becomes a model request (effects §11.4). Pure, so that a replay asks the same question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import canonical, parse_object
from lash_tasks.domain.messages import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_tasks.machine.requests import ModelMessage, ModelRequest

_NOT_IN_A_TOOL_NAME = re.compile(r"[^A-Za-z0-9_-]")
_PREFIX = {Role.SYSTEM: "Runtime note:\n", Role.EVENT: "=== TURN EVENTS ===\n"}


@dataclass(frozen=True, slots=True)
class Transcript:
    """Messages as models see them. It grows without looking at its beginning again: histories are long."""

    messages: tuple[ModelMessage, ...] = ()

    def grown(self, messages: Sequence[Message]) -> Self:
        """With more behind it. Notes of the runtime ride on user messages; empty ones are left out."""
        return replace(self, messages=(*self.messages, *_projected(messages)))


NOTHING_SAID = Transcript()


def project(agent: AgentSnapshot, instructions: str, transcript: Transcript) -> ModelRequest:
    """The request for the next model call."""
    return ModelRequest(_system(agent, instructions), transcript.messages, agent.tools, agent.options)


def _projected(messages: Sequence[Message]) -> tuple[ModelMessage, ...]:
    return tuple(
        ModelMessage(Role.ASSISTANT if message.role is Role.ASSISTANT else Role.USER, parts)
        for message in messages
        if (parts := tuple(part for raw in message.parts if (part := _project_part(message.role, raw)) is not None))
    )


def _system(agent: AgentSnapshot, instructions: str) -> str:
    """The instructions, and where the answer has a type, how it has to look: words work at every endpoint."""
    if agent.appended_instructions is not None:
        instructions = f"{instructions.strip()}\n\n{agent.appended_instructions}"
    if agent.output_schema is None:
        return instructions.strip()
    schema = canonical(agent.output_schema).decode("utf-8", "replace")
    wanted = f"Give your final answer as one JSON value that fits this JSON schema, and write nothing else:\n{schema}"
    return f"{instructions.strip()}\n\n{wanted}".strip()


def _project_part(role: Role, part: Part) -> Part | None:
    match part:
        case TextPart():
            if not part.text.strip():
                return None
            return TextPart(_PREFIX[role] + part.text) if role in _PREFIX else part
        case ReasoningPart():
            return part if part.replay is not None else None
        case ToolCallPart():
            return ToolCallPart(part.call_id, _sendable_name(part.tool), _sendable_arguments(part.arguments))
        case ToolResultPart():
            return replace(part, tool=_sendable_name(part.tool))
        case ImagePart():
            return part


def _sendable_name(tool: str) -> str:
    """A name that any provider takes back. A model may have made one up that would get the session refused for good."""
    return _NOT_IN_A_TOOL_NAME.sub("_", tool)[:64] or "_"


def _sendable_arguments(arguments: str) -> str:
    """Arguments that any provider takes back: what the model wrote, or `{}` where that was no JSON object."""
    try:
        return canonical(parse_object(arguments)).decode("utf-8", "replace")
    except ValueError:
        return "{}"
