"""A session as anybody may read it: everything that is committed, and nothing that only a running worker knows."""

from __future__ import annotations

from dataclasses import dataclass

from lash_tasks.domain.codec import JsonObject, to_json
from lash_tasks.domain.frames import FrameRecord
from lash_tasks.domain.ids import BlobRef, NodeId, SessionId
from lash_tasks.domain.sessions import Content
from lash_tasks.domain.usage import PromptUsage, TokenLedgerEntry, TokenUsage


@dataclass(frozen=True, slots=True)
class SnapshotNode:
    """A node of any branch and any frame."""

    node_id: NodeId
    parent_node_id: NodeId | None
    agent_frame_id: str
    content: Content


@dataclass(frozen=True, slots=True)
class SnapshotGraph:
    nodes: tuple[SnapshotNode, ...]
    leaf_node_id: NodeId | None
    """The node that the session goes on from."""


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """A named state of the session, such as a plugin's. Its body is the blob `ref`."""

    name: str
    generation: int
    ref: BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSnapshot:
    """A session between two turns (sessions §4.1)."""

    session_id: SessionId
    agent: str | None
    """Of the newest turn; None before the first."""
    relation: JsonObject
    policy: JsonObject | None
    """What its turns go by; None as long as no agent is known."""
    turn_index: int
    agent_frames: tuple[FrameRecord, ...]
    """Oldest first."""
    current_agent_frame_id: str
    session_graph: SnapshotGraph
    token_usage: TokenUsage
    """Of the newest turn. What the session has used in all is in the ledger."""
    last_prompt_usage: PromptUsage | None
    token_ledger: tuple[TokenLedgerEntry, ...]
    states: tuple[SnapshotState, ...]

    def as_json(self) -> JsonObject:
        """Plain JSON data; fields that are None are left out."""
        data: JsonObject = to_json(SessionSnapshot, self)
        return data
