"""Cursors of live streams, and the rule that says what a cursor has missed (effects §20)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import InvalidInput
from lash_tasks.stores.protocols import GapReason

_FORM = re.compile(r"lashsc1:([0-9a-z.]{1,40}):([0-9]{1,19})-([0-9]{1,19}):(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Position:
    """An event's place in the stream of its session.

    A stream that is lost and begun anew has another `epoch` (W-37). Its events are numbered from 1 without holes;
    `at_ms` tells an event from one that took its number after the stream was restored to an earlier state.
    """

    epoch: str
    at_ms: int
    number: int


def format_cursor(session_id: SessionId, position: Position) -> str:
    return f"lashsc1:{position.epoch}:{position.at_ms}-{position.number}:{session_id}"


def parse_cursor(session_id: SessionId, cursor: str) -> Position:
    """The position that a cursor of this session names; InvalidInput for any other text."""
    match = _FORM.fullmatch(cursor)
    if match is None:
        raise InvalidInput("cursor", "is malformed; pass one that this service gave, or none to begin at the end")
    epoch, at_ms, number, owner = match.groups()
    if owner != session_id:
        raise InvalidInput("cursor", f"belongs to session {owner!r}, not to {session_id!r}")
    return Position(epoch, int(at_ms), int(number))


def gap_after(position: Position, following: Position | None, last: Position | None) -> GapReason | None:
    """What was lost between `position` and the event `following` it in the stream, whose end is `last`."""
    if following is None:
        return None if last == position else GapReason.UNAVAILABLE
    if following.epoch != position.epoch or following.number <= position.number:
        return GapReason.UNAVAILABLE
    return None if following.number == position.number + 1 else GapReason.TRIMMED
