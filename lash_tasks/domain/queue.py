"""Queued input: batches, the states they pass, and the policies that say when and with what they may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from lash_tasks.domain.codec import OMITTED, UNREADABLE, decode, encode, short_digest
from lash_tasks.domain.ids import BatchId, MessageId, SessionId, TurnId
from lash_tasks.domain.inputs import Blob, QueuedInput, context_digest
from lash_tasks.domain.messages import Message, Origin, Role, TextPart
from lash_tasks.domain.wakes import QueuedWake, wake_message
from lash_tasks.errors import UnsupportedRecordSchemaVersion


class When(StrEnum):
    """How an input meets a session that is at work (design §10)."""

    QUEUE = "queue"
    """After the current turn, in a turn of its own."""
    STEER = "steer"
    """Into the running turn at its next checkpoint; in an idle session it starts a turn."""
    INTERRUPT = "interrupt"
    """The running turn is asked to stop, and the input goes before all that is not urgent."""
    REJECT = "reject"
    """Only into an idle session."""
    MERGE = "merge"
    """After the current turn, together with its neighbours of the same merge key."""


class BatchKind(StrEnum):
    """What a batch is that does not come from a user."""

    WAKE = "wake"
    COMMAND = "command"


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
LONGEST_QUIET = 10
"""A run that waits for quiet is taken in any case when its first input is so many quiet periods old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What the queue has to know of an input to keep the rule it was sent under; see BatchDraft."""

    early: bool = False
    exclusive: bool = True
    merge_key: str | None = None
    urgent: bool = False


def arrival(when: When, merge_key: str | None = None) -> Arrival:
    """The rule `when` in the terms of the queue; `merge_key` is that of MERGE."""
    match when:
        case When.QUEUE | When.REJECT:  # a reject that got in was sent to an idle session
            return Arrival()
        case When.STEER:
            return Arrival(early=True, exclusive=False, merge_key="steer")
        case When.INTERRUPT:
            return Arrival(urgent=True)
        case When.MERGE:
            return Arrival(exclusive=False, merge_key=merge_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDraft:
    """An input on its way in. `payload` is encoded according to `kind`; blobs are stored with it."""

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
    kind: BatchKind | None = None
    """None: input of a user, a QueuedInput."""
    urgent: bool = False
    """Goes before those that are not, and asks the running turn to stop."""
    quiet_ms: int | None = None
    """With a merge key: is not taken before others of its kind have stopped coming for so long."""


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
    kind: BatchKind | None = None
    urgent: bool = False
    quiet_ms: int | None = None


Queued = QueuedInput | QueuedWake
"""What a turn takes from the queue and answers."""


def queued(batch: BatchRecord) -> Queued:
    """What is in a batch that a model is to hear of; ValueError for a command."""
    if batch.kind is BatchKind.COMMAND:
        raise ValueError("a command is not for a model")
    read: Queued = decode(QueuedWake if batch.kind is BatchKind.WAKE else QueuedInput, batch.payload)
    return read


def wake_draft(id_: BatchId, session_id: SessionId, wake: QueuedWake) -> BatchDraft:
    """A wake on its way in: into the running turn at its next checkpoint, each by itself. The first of a key stands."""
    return BatchDraft(
        id=id_,
        session_id=session_id,
        agent=wake.agent,
        payload=encode(QueuedWake, wake),
        input_digest=short_digest(wake.source_key),
        context_digest=context_digest(wake.context),
        source_key=wake.source_key,
        early=True,
        kind=BatchKind.WAKE,
    )


def opening_messages(inputs: Sequence[Queued], ids: Sequence[MessageId]) -> tuple[Message, ...]:
    """What a turn begins with: one message each, in order, so that joined inputs stay distinguishable (§6.6, W30)."""
    return tuple(
        wake_message(item) if isinstance(item, QueuedWake) else Message(id_, Role.USER, item.parts)
        for item, id_ in zip(inputs, ids, strict=True)
    )


@dataclass(frozen=True, slots=True)
class JoinedInput:
    """What a checkpoint claimed, as the checkpoint's outcome remembers it: an input or a wake."""

    batch_id: BatchId
    source_key: Annotated[str | None, OMITTED]
    input: Annotated[QueuedInput | None, OMITTED] = None
    wake: Annotated[QueuedWake | None, OMITTED] = None

    def message(self, id_: MessageId) -> Message:
        """What the turn keeps of it: an input under this id, once and marked with where it came from (W39)."""
        if self.wake is not None:
            return wake_message(self.wake)
        parts = self.input.parts if self.input is not None else ()
        return Message(id_, Role.USER, parts, Origin("injected", self.batch_id, self.source_key))


def encode_joined(batches: Sequence[BatchRecord]) -> bytes:
    """The recorded outcome of a checkpoint: the inputs and, with them, the claim (effects §16, W-6)."""
    return encode(tuple[JoinedInput, ...], tuple(map(_joined, batches)))


def _joined(batch: BatchRecord) -> JoinedInput:
    what = _readable(batch)
    if isinstance(what, QueuedWake):
        return JoinedInput(batch.id, batch.source_key, wake=what)
    return JoinedInput(batch.id, batch.source_key, what)


def input_problem(batch: BatchRecord) -> str | None:
    """Why the batch's input cannot be read, if so."""
    try:
        queued(batch)
    except UNREADABLE as error:
        return str(error) or type(error).__name__
    return None


def _readable(batch: BatchRecord) -> Queued:
    """What is in it, or words that say that it cannot be read, lest the turn that it meets dies of it.

    UnsupportedRecordSchemaVersion for what a later release has sent: one of its workers can read it.
    """
    try:
        return queued(batch)
    except UNREADABLE as error:
        if isinstance(error, UnsupportedRecordSchemaVersion) and error.newer:
            raise
        return QueuedInput(batch.agent, (TextPart("[An input that could not be read.]"),))


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
