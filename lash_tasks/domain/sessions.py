"""Sessions: the head row, and the nodes of the history that only ever grows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.ids import MessageId, NodeId, SessionId
from lash_tasks.domain.messages import Message, without_broken_rounds
from lash_tasks.domain.policies import NOTHING_SAID_OVER, SessionSpec


@dataclass(frozen=True, slots=True)
class SessionHead:
    """Where a session stands: its revision rises by one with every commit, its turn index with every turn."""

    session_id: SessionId
    head_revision: int
    turn_index: int
    created_at_ms: int
    deleted_at_ms: int | None = None
    name: str | None = None
    """None: its id."""
    parent_id: SessionId | None = None
    """None: a root; else the session that this one is a child of."""
    caused_by: JsonObject | None = None
    usage_source: str | None = None
    """The label that a child's usage has in its parent's report."""
    spec: SessionSpec = NOTHING_SAID_OVER

    @property
    def relation(self) -> JsonObject:
        """What ties the session to another one, as JSON."""
        if self.parent_id is None:
            return {"kind": "root"}
        cause = {} if self.caused_by is None else {"caused_by": self.caused_by}
        return {"kind": "child", "parent_session_id": self.parent_id, **cause}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a node stands: the commit that brought it, and its place within that commit."""

    revision: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a protocol or a plugin keeps in the history. It lies on the path like a message; no model sees it."""

    kind: Literal["protocol", "plugin"]
    type: str
    """Of a protocol the plugin's id, of a plugin its own name for what it keeps."""
    body: JsonValue


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a node that cannot be decoded, so that its session goes on without it."""

    problem: str
    later_version: int | None = None
    """The schema version, if a later release has written it: that release's workers can read it."""


Content = Message | Record | Unreadable


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the history. Nodes are never changed; `parent_id` chains them, `frame_id` None is the initial one."""

    node_id: NodeId
    parent_id: NodeId | None
    content: Content
    frame_id: str | None = None

    @property
    def message(self) -> Message | None:
        """What was said. None: a record, or nothing that can be read."""
        return self.content if isinstance(self.content, Message) else None


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node with the place where it landed: `revision` is the commit, `ordinal` its place within it."""

    revision: int
    ordinal: int
    node: Node

    @property
    def place(self) -> Place:
        return Place(self.revision, self.ordinal)


@dataclass(frozen=True, slots=True)
class SessionGraph:
    """Nodes in the order in which they were stored, and the one that the session goes on from."""

    nodes: tuple[StoredNode, ...]
    leaf: NodeId | None


def transcript(nodes: Iterable[Node]) -> list[Message]:
    """The messages of a path, each once, as a model may read them (sessions §2.2).

    Left out are what is no message, what is transient, and tool calls or results whose other half is not on the path.
    """
    seen: set[MessageId] = set()
    messages: list[Message] = []
    for node in nodes:
        message = node.message
        if message is not None and not message.is_transient and message.id not in seen:
            seen.add(message.id)
            messages.append(message)
    return without_broken_rounds(messages)


def chain(messages: tuple[Message, ...], parent: NodeId | None, frame_id: str | None = None) -> tuple[Node, ...]:
    """Nodes for a turn's messages in a frame, each the child of the one before; transient ones are not kept."""
    nodes: list[Node] = []
    for message in messages:
        if message.is_transient:
            continue
        node = Node(NodeId(message.id), parent, message, frame_id)
        nodes.append(node)
        parent = node.node_id
    return tuple(nodes)


_OF_A_TURN = re.compile(r"m\d+\.\d+")


def graft(
    contents: Sequence[Message | Record],
    parent: NodeId | None,
    *,
    seed: str,
    taken: Collection[str] = (),
    active: Collection[MessageId] = (),
    frame_id: str | None = None,
) -> tuple[Node, ...]:
    """Nodes for contents that no turn has made, such as those of a caller, each the child of the one before.

    A message's node has the message's id. Where that is `taken` in the session, or looks like one of a turn's, it is
    `message:<id>`, then `message:<id>:2`, … (sessions §2.1). Other ids come from the `seed`, which nobody else uses in
    the session. Left out are transient messages and those that are `active` on the path already.
    """
    nodes: list[Node] = []
    used, said = set(taken), set(active)
    for index, given in enumerate(contents):
        content = given
        if isinstance(content, Message):
            if not content.id:
                content = replace(content, id=MessageId(f"m{_hex(seed, index)}"))
            if content.is_transient or content.id in said:
                continue
            said.add(content.id)
            node_id = _node_id(content.id, used)
        else:
            node_id = NodeId(f"{content.kind}:{_hex(seed, index)}")
        used.add(node_id)
        nodes.append(Node(node_id, parent, content, frame_id))
        parent = node_id
    return tuple(nodes)


def made_by_turn(node_id: str, turn_index: int) -> bool:
    """Whether the id is one that only this turn gives."""
    return node_id.startswith(f"m{turn_index}.")


def placed(nodes: Sequence[Node], revision: int) -> tuple[StoredNode, ...]:
    """The nodes of one commit where they have landed."""
    return tuple(StoredNode(revision, ordinal, node) for ordinal, node in enumerate(nodes))


def _node_id(message_id: MessageId, used: Collection[str]) -> NodeId:
    if message_id not in used and not _OF_A_TURN.fullmatch(message_id):
        return NodeId(message_id)
    node_id, number = f"message:{message_id}", 2
    while node_id in used:
        node_id, number = f"message:{message_id}:{number}", number + 1
    return NodeId(node_id)


def _hex(seed: str, index: int) -> str:
    return hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:32]
