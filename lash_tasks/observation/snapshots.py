"""Taking the snapshot of a session from what is committed."""

from __future__ import annotations

from dataclasses import dataclass

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.frames import FrameStatus, initial_frame_id, shown_frame_id
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.sessions import SessionHead, StoredNode
from lash_tasks.domain.snapshots import SessionSnapshot, SnapshotGraph, SnapshotNode, SnapshotState
from lash_tasks.domain.usage import NO_USAGE, TokenLedgerEntry, prompt_usage
from lash_tasks.errors import NotFound
from lash_tasks.stores.protocols import FrameStore, GraphStore, SessionStore

LOOKS = 10
"""How often a session that keeps moving is looked at, until two looks agree."""


@dataclass(frozen=True, slots=True)
class SnapshotSources:
    sessions: SessionStore
    frames: FrameStore
    graph: GraphStore


def take_snapshot(sources: SnapshotSources, session_id: SessionId, policy: JsonObject | None = None) -> SessionSnapshot:
    """The session as it stands between two commits, with the policy as given. NotFound if it is unknown or deleted.

    Of a session that commits while it is read the last look counts, whose parts may stem from two commits.
    """
    before = _head(sources, session_id)
    for _ in range(LOOKS):
        snapshot = _read(sources, before, policy)
        after = _head(sources, session_id)
        if after.head_revision == before.head_revision:
            break
        before = after
    return snapshot


def _head(sources: SnapshotSources, session_id: SessionId) -> SessionHead:
    head = sources.sessions.head(session_id)
    if head is None or head.deleted_at_ms is not None:
        raise NotFound("session", session_id)
    return head


def _read(sources: SnapshotSources, head: SessionHead, policy: JsonObject | None) -> SessionSnapshot:
    session_id = head.session_id
    frames = sources.frames.frames(session_id)
    current = next((one.frame_id for one in frames if one.status is FrameStatus.ACTIVE), initial_frame_id(session_id))
    graph = sources.graph.graph(session_id)
    newest = next(iter(sources.sessions.turns(session_id, limit=1, after_index=head.turn_index - 1)), None)
    last = sources.sessions.last_call(session_id)
    return SessionSnapshot(
        session_id=session_id,
        agent=None if newest is None else newest.agent,
        relation=head.relation,
        policy=policy,
        turn_index=head.turn_index,
        agent_frames=tuple(frames),
        current_agent_frame_id=current,
        session_graph=SnapshotGraph(tuple(_node(session_id, stored) for stored in graph.nodes), graph.leaf),
        token_usage=NO_USAGE if newest is None or newest.result is None else newest.result.token_usage,
        last_prompt_usage=None if last is None else prompt_usage(last),
        token_ledger=tuple(
            TokenLedgerEntry(row.source, row.model, row.usage) for row in sources.sessions.usage(session_id)
        ),
        states=tuple(
            SnapshotState(state.name, state.generation, state.ref) for state in sources.sessions.states(session_id)
        ),
    )


def _node(session_id: SessionId, stored: StoredNode) -> SnapshotNode:
    node = stored.node
    return SnapshotNode(node.node_id, node.parent_id, shown_frame_id(session_id, node.frame_id), node.content)
