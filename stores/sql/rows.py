"""Rows as domain values, whichever driver read them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

from sqlalchemy import RowMapping

from lash_tasks.domain.codec import UNREADABLE, decode, encode, parse
from lash_tasks.domain.ids import BatchId, NodeId, ReplayKey, SessionId, TurnId
from lash_tasks.domain.journal import EffectState, RecordedEffect
from lash_tasks.domain.messages import Message
from lash_tasks.domain.policies import stored_spec
from lash_tasks.domain.queue import BatchKind, BatchRecord, BatchState
from lash_tasks.domain.sessions import Content, Node, Record, SessionHead, StoredNode, Unreadable
from lash_tasks.domain.turns import TurnIntent
from lash_tasks.errors import UnsupportedRecordSchemaVersion
from lash_tasks.stores.protocols import TurnCommit

_log = logging.getLogger(__name__)

Row = Mapping[str, Any] | RowMapping

CRASHED = "crashed"
"""The `holder` of a turn that its worker gave up by crashing. No worker has this id: it reads as a dead one."""

INLINE_OUTCOME_BYTES = 64 * 1024
"""An outcome above this lies in lash_blobs, so that reading a journal's keys stays cheap."""


def batch_record(row: Row) -> BatchRecord:
    return BatchRecord(
        id=BatchId(row["id"]),
        session_id=SessionId(row["session_id"]),
        seq=row["seq"],
        agent=row["agent"],
        state=BatchState(row["state"]),
        turn_id=None if row["turn_id"] is None else TurnId(row["turn_id"]),
        source_key=row["source_key"],
        early=row["early"],
        exclusive=row["exclusive"],
        merge_key=row["merge_key"],
        available_at_ms=row["available_at_ms"],
        enqueued_at_ms=row["enqueued_at_ms"],
        payload=row["payload"],
        replay_of=None if row["replay_of"] is None else BatchId(row["replay_of"]),
        kind=None if row["kind"] is None else BatchKind(row["kind"]),
        urgent=row["urgent"],
        quiet_ms=row["quiet_ms"],
    )


def turn_intent(row: Row) -> TurnIntent:
    return TurnIntent(
        session_id=SessionId(row["session_id"]),
        turn_id=TurnId(row["turn_id"]),
        turn_index=row["turn_index"],
        base_revision=row["base_revision"],
        batch_ids=tuple(BatchId(batch_id) for batch_id in parse(row["batch_ids"])),
        agent=row["agent"],
        agent_ref=row["agent_ref"],
        machine_version=row["machine_version"],
        admitted_at_ms=row["admitted_at_ms"],
    )


def short_key(key: str, session_id: SessionId, turn_id: TurnId) -> str:
    """A replay key as its columns hold it: without the session and the turn, which stand beside it or in its scope.

    What is left begins with a colon and still tells effects of one session apart, for next comes the turn's index.
    """
    prefix = f"{session_id}:{turn_id}:"
    return key[len(prefix) - 1 :] if key.startswith(prefix) else key


def replay_key(short: str, session_id: SessionId, turn_id: TurnId) -> ReplayKey:
    """What `short_key` made short."""
    return ReplayKey(f"{session_id}:{turn_id}{short}" if short.startswith(":") else short)


def recorded_effect(row: Row, intent: TurnIntent) -> RecordedEffect:
    """From columns of the effect, with `outcome` fetched from the blob where it lies there."""
    return RecordedEffect(
        replay_key=replay_key(row["replay_key"], intent.session_id, intent.turn_id),
        ordinal=row["ordinal"],
        fence=row["fence"],
        state=EffectState(row["state"]),
        envelope=row["envelope"],
        outcome=row["outcome"],
    )


def session_head(row: Row) -> SessionHead:
    return SessionHead(
        session_id=SessionId(row["id"]),
        head_revision=row["head_revision"],
        turn_index=row["turn_index"],
        created_at_ms=row["created_at_ms"],
        deleted_at_ms=row["deleted_at_ms"],
        name=row["name"],
        parent_id=None if row["parent_id"] is None else SessionId(row["parent_id"]),
        caused_by=None if row["caused_by"] is None else parse(row["caused_by"]),
        usage_source=row["usage_source"],
        spec=stored_spec(row["spec"]),
    )


def stored_node(row: Row) -> StoredNode:
    parent = None if row["parent_id"] is None else NodeId(row["parent_id"])
    node = Node(NodeId(row["node_id"]), parent, _content(row), row["frame_id"])
    return StoredNode(row["revision"], row["ordinal"], node)


def _content(row: Row) -> Content:
    """A session must not rest on every byte of its past: what cannot be decoded is passed over, and logged."""
    try:
        content: Content = decode(Message if row["kind"] is None else Record, row["message"])
    except UNREADABLE as error:
        extra = {"session_id": row["session_id"], "node_id": row["node_id"], "error": str(error)}
        _log.error("a node of the history cannot be read", extra=extra)
        later = error.actual if isinstance(error, UnsupportedRecordSchemaVersion) and error.newer else None
        return Unreadable(str(error), later)
    return content


def all_nodes(commit: TurnCommit) -> tuple[Node, ...]:
    """What the commit adds to the history: the turn's nodes, behind them the seed of a frame that it opens."""
    if commit.frame is None:
        return commit.nodes
    return (*commit.nodes, *(replace(node, frame_id=commit.frame.frame_id) for node in commit.frame.nodes))


def content_bytes(node: Node) -> bytes:
    """The column `message` of a node."""
    match node.content:
        case Message():
            return encode(Message, node.content)
        case Record():
            return encode(Record, node.content)
        case Unreadable():
            raise TypeError("a node that could not be read is not written")
        case _:
            assert_never(node.content)


def node_kind(node: Node) -> str | None:
    """The column `kind` of a node."""
    return node.content.kind if isinstance(node.content, Record) else None
