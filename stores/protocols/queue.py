"""Ways into the queue of inputs: over the caller's connection and over ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.queue import BatchDraft, BatchRecord, Cancellation, DeadLetter, Enqueued


@dataclass(frozen=True, slots=True)
class CallerEnqueued:
    """An enqueue in the caller's transaction. `hooked`: the connection will call `on_commit` by itself."""

    enqueued: Enqueued
    hooked: bool


class CallerQueue(Protocol):
    """The way into the queue through a transaction that belongs to somebody else."""

    def enqueue_with(
        self, connection: object, draft: BatchDraft, *, on_commit: Callable[[], None] | None = None
    ) -> CallerEnqueued:
        """`InputQueue.enqueue` over the caller's connection: what it stores lands with their commit or not at all.

        Never commits, rolls back or closes, and a refusal leaves the caller's transaction usable.
        `on_commit` is called once, after the commit and not after a rollback, where the object can say when that
        is and the batch is new; the answer says whether it will be. Raises StoreMismatch when the connection
        reaches another database, InvalidInput (field `connection`) when it is no connection we know, and what
        `enqueue` raises.
        """
        ...


class InputQueue(CallerQueue, Protocol):
    """The durable queue of inputs. Senders only insert; they wait for no turn and no turn waits for them."""

    def enqueue(self, draft: BatchDraft, *, reject_if_busy: bool = False) -> Enqueued:
        """Store the batch and its blobs.

        The same (session, source key) with the same input digest returns the stored batch, whatever has become of
        it, and stores nothing; concurrent callers all get the one batch. Raises IdempotencyConflict for another
        digest, SessionDeleted, UnknownAgent, NoWorkerHasRegistered. With `reject_if_busy` the decision is taken
        under the session's fence lock: SessionBusy if the session has an unfinished turn or a ready batch.

        A new urgent batch asks the session's turn to stop, also one that is being opened meanwhile; `enqueue_with`,
        which waits for nobody, may miss that one.
        """
        ...

    def find(
        self, session_id: SessionId, *, batch_id: BatchId | None = None, source_key: str | None = None
    ) -> BatchRecord | None:
        """The batch with this id or source key, in whatever state, or None."""
        ...

    def cancel(self, session_id: SessionId, batch_id: BatchId) -> Cancellation | None:
        """Cancel a batch that nobody has claimed; against a racing claim exactly one of the two wins.

        A claimed one answers `taken` with its turn, one that has already ended answers `ended`; unknown: None.
        """
        ...

    def waiting(self, session_id: SessionId | None = None, limit: int = 200) -> list[BatchRecord]:
        """Ready and claimed batches in the order they will run."""
        ...

    def dead(self, session_id: SessionId | None = None, limit: int = 200) -> list[DeadLetter]:
        """Dead letters, newest first."""
        ...

    def dead_letter(self, session_id: SessionId, batch_id: BatchId) -> DeadLetter | None:
        """The dead letter of one batch, or None."""
        ...

    def replay(self, batch_id: BatchId, new_id: BatchId) -> Enqueued | None:
        """Enqueue a dead batch's input again as `new_id` with `replay_of`; a second replay returns the first's.

        None if there is no such dead letter. Raises SessionDeleted.
        """
        ...
