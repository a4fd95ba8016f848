"""Sessions: the head row and the nodes of the append-only history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lash_tasks.domain.ids import NodeId, SessionId
from lash_tasks.domain.messages import Message


@dataclass(frozen=True, slots=True)
class SessionHead:
    """Where a session stands: its revision rises by one with every commit, its turn index with every turn."""

    session_id: SessionId
    head_revision: int
    turn_index: int
    created_at_ms: int
    deleted_at_ms: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a node stands: the commit that brought it, and its place within that commit."""

    revision: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class Node:
    """One message in the history. Nodes are never changed; `parent_id` chains them, `frame_id` is its frame's."""

    node_id: NodeId
    parent_id: NodeId | None
    message: Message
    frame_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node with the place where it landed: `revision` is the commit, `ordinal` its place within it."""

    revision: int
    ordinal: int
    node: Node

    @property
    def place(self) -> Place:
        return Place(self.revision, self.ordinal)


def chain(messages: tuple[Message, ...], parent: NodeId | None, frame_id: str | None = None) -> tuple[Node, ...]:
    """Nodes for `messages` in a frame, each the child of the one before (sessions §2.2)."""
    nodes: list[Node] = []
    for message in messages:
        node = Node(NodeId(message.id), parent, message, frame_id)
        nodes.append(node)
        parent = node.node_id
    return tuple(nodes)


def placed(nodes: Sequence[Node], revision: int) -> tuple[StoredNode, ...]:
    """The nodes of one commit where they have landed."""
    return tuple(StoredNode(revision, ordinal, node) for ordinal, node in enumerate(nodes))
