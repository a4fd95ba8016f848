"""Queued input: batches, the states they pass, and the policies that say when and with what they may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from lash_tasks.domain.codec import OMITTED, decode, encode
from lash_tasks.domain.ids import BatchId, SessionId, TurnId
from lash_tasks.domain.inputs import Blob, QueuedInput


class When(StrEnum):
    """How an input meets a session that is at work (design §10)."""

    QUEUE = "queue"
    REJECT = "reject"


class BatchState(StrEnum):
    READY = "ready"
    CLAIMED = "claimed"
    CONSUMED = "consumed"
    CANCELLED = "cancelled"
    DEAD = "dead"


BATCH_TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState.READY: frozenset({BatchState.CLAIMED, BatchState.CANCELLED}),
    BatchState.CLAIMED: frozenset({BatchState.CONSUMED, BatchState.DEAD}),
    BatchState.CONSUMED: frozenset(),
    BatchState.CANCELLED: frozenset(),
    BatchState.DEAD: frozenset(),
}
"""A claim is a fact of the turn that took it: it is never given back, the turn ends it (design §4)."""

MAX_BATCHES_PER_CLAIM = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDraft:
    """An input on its way in. `payload` is an encoded QueuedInput; blobs are stored with it."""

    id: BatchId
    session_id: SessionId
    agent: str
    payload: bytes
    input_digest: str
    """Digest of what the caller sent: the same key with another digest is a conflict."""
    context_digest: str
    """Inputs share a turn only if these agree."""
    source_key: str | None = None
    early: bool = False
    """May enter the running turn at a checkpoint (earliest_safe_boundary)."""
    exclusive: bool = True
    """Is claimed alone."""
    merge_key: str | None = None
    """Neighbours with the same key may be claimed together; None never merges."""
    available_at_ms: int = 0
    blobs: tuple[Blob, ...] = ()
    replay_of: BatchId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A batch as it stands in SQL."""

    id: BatchId
    session_id: SessionId
    seq: int
    agent: str
    state: BatchState
    turn_id: TurnId | None
    source_key: str | None
    early: bool
    exclusive: bool
    merge_key: str | None
    available_at_ms: int
    enqueued_at_ms: int
    payload: bytes
    replay_of: BatchId | None = None


@dataclass(frozen=True, slots=True)
class JoinedInput:
    """An input that a checkpoint claimed, as the checkpoint's outcome remembers it."""

    batch_id: BatchId
    source_key: Annotated[str | None, OMITTED]
    input: QueuedInput


def encode_joined(batches: Sequence[BatchRecord]) -> bytes:
    """The recorded outcome of a checkpoint: the inputs and, with them, the claim (effects §16, W-6)."""
    joined = tuple(JoinedInput(batch.id, batch.source_key, decode(QueuedInput, batch.payload)) for batch in batches)
    return encode(tuple[JoinedInput, ...], joined)


def decode_joined(outcome: bytes) -> tuple[JoinedInput, ...]:
    joined: tuple[JoinedInput, ...] = decode(tuple[JoinedInput, ...], outcome)
    return joined


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The answer to an enqueue: the stored batch, and whether this call stored it."""

    id: BatchId
    session_id: SessionId
    created: bool


class CancelVerdict(StrEnum):
    CANCELLED = "cancelled"
    TAKEN = "taken"
    ENDED = "ended"
    REQUESTED = "requested"
    """Of a turn: it was asked to stop."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of a cancel: `taken` and `ended` name the turn that has or had the input, if any."""

    verdict: CancelVerdict
    batch_id: BatchId
    turn_id: TurnId | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    batch_id: BatchId
    session_id: SessionId
    turn_id: TurnId
    reason: str
    died_at_ms: int
    replayed_as: BatchId | None = None
