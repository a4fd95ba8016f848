"""The whole history of sessions, also what no turn sees any more: branches, frames of before, and what is hidden."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from lash_tasks.domain.ids import NodeId, SessionId
from lash_tasks.domain.sessions import SessionGraph, StoredNode


class GraphStore(Protocol):
    """Nodes of all branches and frames. A session that is not there has none. Nodes that are hidden are not shown."""

    def graph(self, session_id: SessionId) -> SessionGraph:
        """All nodes in the order in which they were stored, and the leaf."""
        ...

    def path(self, session_id: SessionId, leaf: NodeId | None = None) -> SessionGraph:
        """The way from the root to `leaf`, or to the session's own: of all frames, oldest first.

        Nothing if there is no such leaf. It ends whatever the parents of nodes say.
        """
        ...

    def leaf(self, session_id: SessionId) -> StoredNode | None:
        """The last node of the way to the session's own leaf, whatever its frame. Only it is read."""
        ...

    def node(self, session_id: SessionId, node_id: NodeId) -> StoredNode | None:
        """A node, on the active path or off it."""
        ...

    def orphans(self, session_id: SessionId) -> list[NodeId]:
        """The nodes that are not on the active path, in the order in which they were stored."""
        ...

    def taken(self, session_id: SessionId, node_ids: Collection[str]) -> set[str]:
        """Which of these ids nodes of the session have, hidden ones included."""
        ...

    def tombstone(self, session_id: SessionId, node_ids: Collection[NodeId]) -> int:
        """Hide nodes; how many were not hidden before. From the next turn on no model sees them.

        Until a vacuum they are back when they are committed again.
        """
        ...

    def vacuum(self, session_id: SessionId) -> int:
        """Remove what is hidden for good; how many nodes. What hung from them hangs from what they hung from.

        Nothing is removed while a turn of the session runs.
        """
        ...
