"""Identifiers: one NewType each, the derived ones, and what a caller may choose."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NewType

SessionId = NewType("SessionId", str)
TurnId = NewType("TurnId", str)
BatchId = NewType("BatchId", str)
NodeId = NewType("NodeId", str)
MessageId = NewType("MessageId", str)
CallId = NewType("CallId", str)
WorkerId = NewType("WorkerId", str)
LeaseToken = NewType("LeaseToken", str)
ReplayKey = NewType("ReplayKey", str)
BlobRef = NewType("BlobRef", str)
"""Lowercase hex SHA-256 of the bytes."""

MAX_NAME_LENGTH = 200
TURN_DIGITS = 24
"""Of the hash in a turn's id. The id stands in a dozen rows and index entries of every turn."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CALL_ID = re.compile(r"[A-Za-z0-9_.:#-]{1,64}")


def name_problem(value: str, limit: int = MAX_NAME_LENGTH) -> str | None:
    """Why `value` cannot be an id or key that a caller chooses, as the end of a sentence; None if it can."""
    if not value.strip():
        return "must not be empty"
    if len(value) > limit:
        return f"is {len(value)} characters and may be at most {limit}"
    if _CONTROL.search(value):
        return "must not contain control characters"
    return None


def fence_scope(session_id: SessionId) -> str:
    """The fence row and the lease of a session. Processes share the table under another prefix."""
    return f"session:{session_id}"


def effect_scope(session_id: SessionId, turn_id: TurnId) -> str:
    """The journal of one turn. Unambiguous: a turn id has no slash, so the last one divides."""
    return f"session:{session_id}/{turn_id}"


def queue_turn_id(batch_ids: Sequence[BatchId]) -> TurnId:
    """The turn that a set of claimed batches starts: stable over crash and retry, unique in its session otherwise."""
    return TurnId("queue:" + hashlib.sha256(",".join(batch_ids).encode()).hexdigest()[:TURN_DIGITS])


def blob_ref(content: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(content).hexdigest())


def message_id(turn_index: int, ordinal: int) -> MessageId:
    """Message `ordinal` of turn `turn_index`: the same on every run of the turn."""
    return MessageId(f"m{turn_index}.{ordinal}")


def effect_key(
    session_id: SessionId, turn_id: TurnId, turn_index: int, iteration: int, kind: str, effect_id: int
) -> ReplayKey:
    """The replay key of a turn effect (effects §3.1)."""
    return ReplayKey(f"{session_id}:{turn_id}:{turn_index}:{iteration}:{kind}:{effect_id}")


def tool_attempt_key(round_key: ReplayKey, index: int, call_id: CallId, attempt: int = 1) -> ReplayKey:
    """The replay key of attempt `attempt` of call `index` of a round (effects §3.1)."""
    return ReplayKey(f"{round_key}:child:{index}:{call_id}:attempt:{attempt}")


def tool_idempotency_key(round_key: ReplayKey, index: int, call_id: CallId) -> str:
    """What every attempt of one call shows to the outside: short, opaque, unique to this call."""
    return "lash-" + hashlib.sha256(f"{round_key}:child:{index}:{call_id}".encode()).hexdigest()[:40]


def unique_call_ids(proposed: Sequence[str], taken: frozenset[str]) -> tuple[CallId, ...]:
    """Call ids as the turn will use them: plain, and unique within the turn.

    A model may send an id twice, or one that no key or header can carry. An odd one becomes a digest of
    itself, a repeated one gets `#2`, `#3`, … (effects §12, W-22). Deterministic, so a replay agrees.
    """
    used = set(taken)
    result: list[CallId] = []
    for raw in proposed:
        plain = raw
        if not _CALL_ID.fullmatch(plain):
            plain = "call_" + hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        candidate, number = plain, 1
        while candidate in used:
            number += 1
            candidate = f"{plain[:56]}#{number}"
        used.add(candidate)
        result.append(CallId(candidate))
    return tuple(result)
