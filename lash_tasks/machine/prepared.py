"""A prompt that plugins have transformed, and how little of it has to be recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lash_tasks.domain.hooks import Kept, Placed, PreparedPrompt, PromptPiece
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import Role, ToolCallPart, ToolResultPart
from lash_tasks.machine.requests import ModelMessage


@dataclass(frozen=True, slots=True)
class PreparedContext:
    """What the model is about to see. A transform gives back another one, made with `dataclasses.replace`."""

    messages: tuple[ModelMessage, ...]
    """The history and the input of this turn."""
    contributions: tuple[str, ...] = ()
    """Texts that follow the agent's instructions."""


def prompt_problem(messages: Sequence[ModelMessage]) -> str | None:
    """Why no model takes these messages, as the end of a sentence; None if one may."""
    if not messages or messages[-1].role is not Role.USER:
        return "must end with a message of the user"
    open_calls: set[CallId] = set()
    for message in messages:
        if message.role not in (Role.USER, Role.ASSISTANT) or not message.parts:
            return "must have messages of user and assistant only, each with a part"
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                open_calls.add(part.call_id)
            elif isinstance(part, ToolResultPart):
                if part.call_id not in open_calls:
                    return f"must not keep a tool's result without its call ({part.tool!r})"
                open_calls.discard(part.call_id)
    return "must not keep a tool call without its result" if open_calls else None


def written_down(before: Sequence[ModelMessage], after: PreparedContext) -> PreparedPrompt | None:
    """The difference between the prompt before and after; None if there is none. Kept are messages that are the same
    objects, so a transform that filters is recorded in a few bytes."""
    if after == PreparedContext(tuple(before)):
        return None
    pieces: list[PromptPiece] = []
    places = {id(message): place for place, message in enumerate(before)}
    for message in after.messages:
        place = places.get(id(message))
        last = pieces[-1] if pieces else None
        if place is None:
            pieces.append(Placed(message.role, message.parts))
        elif isinstance(last, Kept) and place == last.first + last.count:
            pieces[-1] = Kept(last.first, last.count + 1)
        else:
            pieces.append(Kept(place, 1))
    return PreparedPrompt(tuple(pieces), after.contributions)


def read_back(before: Sequence[ModelMessage], prepared: PreparedPrompt) -> Iterator[ModelMessage]:
    """The messages that `written_down` has written down."""
    for piece in prepared.pieces:
        match piece:
            case Kept():
                yield from before[piece.first : piece.first + piece.count]
            case Placed():
                yield ModelMessage(piece.role, piece.parts)
