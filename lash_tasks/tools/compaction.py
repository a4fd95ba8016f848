"""Compactors: an application's functions that say what a session that has grown long goes on with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lash_tasks.domain.frames import Initial, Seed, read_seeds
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import Message, Role, TextPart
from lash_tasks.errors import ConfigurationError
from lash_tasks.plugins.signatures import takes
from lash_tasks.tools.exits import EXITS
from lash_tasks.tools.text import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionContext:
    """The session that is to be compacted: what its model sees now, oldest first."""

    session_id: SessionId
    agent: str
    frame_id: str
    messages: tuple[Message, ...]

    def last(self, count: int) -> tuple[Message, ...]:
        """The last messages, at most `count`, from a text of the user on: no tool call is torn from its result."""
        tail = self.messages[-count:] if count > 0 else ()
        starts = (index for index, message in enumerate(tail) if _is_said_by_user(message))
        return tail[next(starts, len(tail)) :]


Compactor = Callable[[CompactionContext], Sequence[Initial] | None]
"""Gives the messages that a new frame begins with; None or none of them if it has nothing to say."""


def checked_compactors(label: str, given: object) -> tuple[Compactor, ...]:
    """The compactors of an agent, one or a list; ConfigurationError for what is none."""
    listed = [given] if callable(given) else given
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ConfigurationError(f"{label}: compact must be a function or a list of functions, not {given!r}")
    compactors: list[Compactor] = []
    for compactor in listed:
        if not callable(compactor) or inspect.iscoroutinefunction(compactor):
            raise ConfigurationError(
                f"{label}: compact needs plain functions of a CompactionContext, not {compactor!r}"
            )
        if not takes(compactor, 1):
            raise ConfigurationError(f"{label}: {_name(compactor)} must take one argument, the CompactionContext")
        compactors.append(compactor)
    return tuple(compactors)


def compacted(compactors: Sequence[Compactor], context: CompactionContext) -> tuple[Seed, ...]:
    """What the first compactor that has something to say gives. Whatever one raises comes through."""
    for compactor in compactors:
        try:
            given = compactor(context)
        except EXITS as error:
            raise RuntimeError(f"{_name(compactor)} raised {describe(error)}") from error
        try:
            seeds = read_seeds(given if given is not None else ())
        except ValueError as error:
            raise ValueError(f"the result of {_name(compactor)} {error}") from None
        if seeds:
            return seeds
    return ()


def _is_said_by_user(message: Message) -> bool:
    return message.role is Role.USER and any(isinstance(part, TextPart) for part in message.parts)


def _name(compactor: Compactor) -> str:
    return f"compactor {getattr(compactor, '__qualname__', type(compactor).__qualname__)}"
