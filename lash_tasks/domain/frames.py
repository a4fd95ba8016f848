"""Agent frames: the parts of a session's life that a model sees one at a time (sessions §3).

A frame begins with its seeds and sees nothing of those before it, which stay for whoever reads the session. The first
one has no row and is called `{session_id}:frame:initial`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from lash_tasks.domain.codec import JsonObject, digest, scrub, short_digest
from lash_tasks.domain.ids import BatchId, MessageId, NodeId, SessionId, TurnId, message_id, name_problem
from lash_tasks.domain.messages import Message, Origin, Part, Role, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.sessions import Node

MAX_FRAME_SWITCHES = 32
"""How often one input may switch frames. The turn that asks for one more stops with `max_turns`."""

INITIAL = "initial"
CONTINUE_AS = "continue_as"
COMPACTION = "compaction"
"""Reasons that frames of ours are opened for; any other text is kept as it is."""

_MARK = ":agent-frame:"
_FOLLOW_UP = re.compile(rf"(.+){_MARK}([1-9][0-9]{{0,8}})", re.DOTALL)


Initial = str | Mapping[str, str] | Message
"""A message that a frame begins with: a text of the user, a mapping of `role` and `text`, or one of the session's."""


class FrameStatus(StrEnum):
    ACTIVE = "active"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRecord:
    """A frame as it is read. One of a session is active: the last one, unless a branch went back into another."""

    session_id: SessionId
    frame_id: str
    previous_frame_id: str | None
    """None: the initial frame."""
    status: FrameStatus
    reason: str
    assignment: JsonObject
    """What turns in this frame are given; a new frame begins with that of the one before."""
    created_at_ms: int
    opened_revision: int = 0
    """The revision whose commit opened it."""
    caused_by: JsonObject | None = None

    @property
    def created_at(self) -> str:
        """RFC 3339, UTC."""
        moment = datetime.fromtimestamp(self.created_at_ms / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Seed:
    """A message that a frame begins with. It gets its id when the frame is opened."""

    role: Role
    parts: tuple[Part, ...]
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class FrameSwitch:
    """What a tool asked for: go on in the frame `frame_id`, which begins with `seeds`, with `task` as the input."""

    frame_id: str
    task: str
    seeds: tuple[Seed, ...] = ()
    reason: str = CONTINUE_AS


# ---------------------------------------------------------------- names


def initial_frame_id(session_id: SessionId) -> str:
    return f"{session_id}:frame:initial"


def stored_frame_id(session_id: SessionId, frame_id: str) -> str | None:
    """The id as columns hold it: None for the initial frame."""
    return None if frame_id == initial_frame_id(session_id) else frame_id


def shown_frame_id(session_id: SessionId, stored: str | None) -> str:
    """What `stored_frame_id` made of it."""
    return initial_frame_id(session_id) if stored is None else stored


def compaction_frame_id(session_id: SessionId, unique: str) -> str:
    return f"{session_id}:frame:compaction:{unique}"


def derived_frame_id(session_id: SessionId, idempotency_key: str) -> str:
    """The frame of a tool call that names none: the same on every attempt of the call."""
    return f"{session_id}:frame:{short_digest(idempotency_key)}"


def follow_up_turn_id(turn_id: TurnId) -> TurnId:
    """The turn that goes on with the task of a turn that switched frames."""
    root, number = frame_number(turn_id)
    return TurnId(f"{root}{_MARK}{number + 1}")


def task_batch_id(session_id: SessionId, turn_id: TurnId) -> BatchId:
    """The input of a turn that follows a switch: known to whoever knows the turn."""
    return BatchId("task-" + digest([session_id, turn_id])[:32])


def is_of_run(turn_id: TurnId, first: TurnId) -> bool:
    """Whether a turn is `first`, or one that its run has come to by switching frames."""
    (root, number), (first_root, first_number) = frame_number(turn_id), frame_number(first)
    return root == first_root and number >= first_number


def frame_number(turn_id: TurnId) -> tuple[TurnId, int]:
    """The turn that began the run, and which turn after it this one is; 0 for that turn itself."""
    match = _FOLLOW_UP.fullmatch(turn_id)
    return (turn_id, 0) if match is None else (TurnId(match[1]), int(match[2]))


# ---------------------------------------------------------------- seeds


def read_seeds(items: object) -> tuple[Seed, ...]:
    """Seeds from what an application gives; ValueError says which item cannot be used and why.

    An item is a text of the user, a Message of the session, or a mapping of `role` and `text`. Tool calls and their
    results come in pairs, because no provider takes one without the other.
    """
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Sequence):
        raise ValueError(f"must be a list of messages, not {type(items).__name__}")
    seeds = tuple(_seed(item, f"[{index}]") for index, item in enumerate(items))
    calls: set[str] = set()
    answered: set[str] = set()
    for index, part in ((index, part) for index, seed in enumerate(seeds) for part in seed.parts):
        if isinstance(part, ToolCallPart):
            calls.add(part.call_id)
        elif isinstance(part, ToolResultPart):
            if part.call_id not in calls:
                raise ValueError(f"[{index}] answers the tool call {part.call_id!r}, which is not before it")
            answered.add(part.call_id)
    if lonely := sorted(calls - answered):
        raise ValueError(f"holds the tool call {lonely[0]!r} without its result")
    return seeds


def _seed(item: object, where: str) -> Seed:
    match item:
        case Message():
            if not item.parts:
                raise ValueError(f"{where} is a message without content")
            return Seed(item.role, item.parts, None if item.is_transient else item.origin)
        case str():
            role, text = Role.USER, item
        case Mapping() if set(item) == {"role", "text"} and isinstance(item["text"], str):
            if item["role"] not in tuple(Role):
                raise ValueError(f"{where}: role must be one of {', '.join(Role)}, not {item['role']!r}")
            role, text = Role(item["role"]), item["text"]
        case _:
            raise ValueError(f"{where} must be a text, a Message or a mapping of role and text")
    if not text.strip():
        raise ValueError(f"{where} must not be blank")
    return Seed(role, (TextPart(scrub(text)),))


def frame_id_problem(session_id: SessionId, frame_id: str) -> str | None:
    """Why a frame cannot have this id, as the end of a sentence; None if it can."""
    return name_problem(frame_id, limit=len(session_id) + 300)


def seed_nodes(
    seeds: Sequence[Seed], frame_id: str, turn_index: int, first: int, parent: NodeId | None
) -> tuple[Node, ...]:
    """The nodes that a frame begins with, behind the node `parent`. `first` is the first message number to take."""
    nodes: list[Node] = []
    for ordinal, seed in enumerate(seeds, first):
        id_: MessageId = message_id(turn_index, ordinal)
        nodes.append(Node(NodeId(id_), parent, Message(id_, seed.role, seed.parts, seed.origin), frame_id))
        parent = NodeId(id_)
    return tuple(nodes)
