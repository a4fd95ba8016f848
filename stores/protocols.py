"""One small Protocol per store; the docstring of a verb is its contract.

For every SQL verb: it is one transaction, it lands whole or not at all, and it raises StoreUnavailable when the
database cannot be reached or gave up (nothing was written, unless the verb says otherwise). Times are epoch
milliseconds of the database. Verbs are safe from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lash_tasks.domain.activity import TurnActivity
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.ids import BatchId, BlobRef, LeaseToken, SessionId, TurnId, WorkerId
from lash_tasks.domain.journal import JournalRow, RecordedEffect, RecordReply
from lash_tasks.domain.queue import BatchDraft, BatchRecord, Cancellation, DeadLetter, Enqueued
from lash_tasks.domain.sessions import Node, SessionHead, StoredNode
from lash_tasks.domain.turns import TurnIntent, TurnRecord
from lash_tasks.domain.usage import UsageEntry, UsageTotal

# ---------------------------------------------------------------- input


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

    def replay(self, batch_id: BatchId, new_id: BatchId) -> Enqueued | None:
        """Enqueue a dead batch's input again as `new_id` with `replay_of`; a second replay returns the first's.

        None if there is no such dead letter. Raises SessionDeleted.
        """
        ...


# ---------------------------------------------------------------- turns


@dataclass(frozen=True, slots=True)
class Pinned:
    """The version that an unfinished turn began with and goes on with."""

    agent: str
    ref: str
    machine_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    session_id: SessionId
    worker: WorkerId
    agents: Mapping[str, str]
    """The agents this worker has the code for: name to snapshot ref. Others are left alone."""
    machine_version: int
    refs: frozenset[str] = frozenset()
    """Snapshots of other versions of these agents whose turns this worker has the code for too."""
    known_revision: int = 0
    """History up to this revision is known to the caller and need not be read."""

    def has_code_for(self, pinned: Pinned) -> bool:
        """Whether this worker may go on with an unfinished turn; one that is to be cancelled needs no code."""
        return (
            pinned.agent in self.agents
            and (self.agents[pinned.agent] == pinned.ref or pinned.ref in self.refs)
            and pinned.machine_version == self.machine_version
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedTurn:
    """A turn under a fence that was just raised.

    `batches` are those of the intent, in order; what joined at a checkpoint is in that checkpoint's outcome.
    """

    intent: TurnIntent
    resumed: bool
    fence: int
    attempt: int
    """1 at first; counts openings after a holder died without having recorded anything."""
    batches: tuple[BatchRecord, ...]
    journal: tuple[RecordedEffect, ...]
    history: tuple[StoredNode, ...]
    """Nodes of revisions above `known_revision`, oldest first."""
    cancel: bool
    """A cancel of this turn waits."""
    joinable: bool
    """An input waits that may enter the turn at a checkpoint."""


class NotOpened(StrEnum):
    NOTHING = "nothing"
    """Nothing is runnable; nothing was written."""
    HOLDER_LIVES = "holder_lives"
    """Another live worker drives the turn; the fence was not raised."""
    HELD = "held"
    """There is work, but this worker has no code for it: another agent or another version. Nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequest:
    session_id: SessionId
    turn_id: TurnId
    fence: int
    agent: str
    context_digest: str
    row: JournalRow
    """The checkpoint's effect without an outcome. The store writes the outcome: `encode_joined` of the batches."""
    limit: int = 64


@dataclass(frozen=True, slots=True)
class CheckpointTaken:
    """The claim was made and recorded with it: these batches are the turn's now."""

    batches: tuple[BatchRecord, ...]


class CheckpointRefused(StrEnum):
    EMPTY = "empty"
    """Nothing may join; nothing was written."""
    EXISTS = "exists"
    """The checkpoint is recorded already; nothing was written."""
    FENCED = "fenced"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCommit:
    """Everything that a turn leaves behind. Lands whole or not at all."""

    session_id: SessionId
    turn_id: TurnId
    fence: int
    turn_index: int
    base_revision: int
    batch_ids: tuple[BatchId, ...]
    """All batches that the turn has claimed, at its opening and at checkpoints."""
    refuse_if_joinable: bool
    """Fail softly when an input waits that may still join (agent and context as below)."""
    agent: str
    context_digest: str
    nodes: tuple[Node, ...]
    usage: tuple[UsageEntry, ...]
    stamp: str
    """Digest of the semantic content: outcome and messages."""
    outcome: str
    """Kind of the outcome, for listings: `finished`, `cancelled`, `provider_error`, …"""
    result: bytes
    """The encoded AssembledTurn, without `committed_at_ms`."""
    dead_reason: str | None = None
    """Set: the batches end as dead letters with this reason."""


@dataclass(frozen=True, slots=True)
class Committed:
    revision: int
    committed_at_ms: int
    more: bool
    """Further input of the session is ready."""


class CommitRefused(StrEnum):
    ALREADY = "already"
    """The turn has its stamp: an earlier commit landed and its answer was lost."""
    FENCED = "fenced"
    JOINABLE = "joinable"
    CONFLICT = "conflict"
    """The head or the claims are not what the turn pinned: a bug; nothing was written."""


class TurnStore(Protocol):
    """The life of a turn in SQL. Every write but `open` and `request_cancel` is fenced."""

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        """Lock the session's fence; resume its unfinished turn or claim ready batches and write an intent.

        Raises the fence if and only if a turn is returned. An unfinished turn may be resumed when it was given up,
        when this worker holds it, or when its holder is no live worker, and if `request.has_code_for` what it is pinned
        to; one that is to be cancelled any worker may resume. Otherwise the oldest available batch
        decides: alone if exclusive, or with the unbroken run of those behind it that are not exclusive either and
        have its merge key, agent, context and `early` (at most 64; without a merge key alone). The session row
        comes to be with its first turn. `attempt` counts up when the former holder died and the journal has nothing
        new since the last opening, starts again at 1 when it has, and stays after a giving up that was not a crash.
        """
        ...

    def record(self, rows: Sequence[JournalRow]) -> list[RecordReply]:
        """Write journal rows, possibly of many turns; one verdict per row, in order.

        First record wins: `begun` may become `done` once, under the same envelope; anything else on an existing
        key is `exists`. A row whose fence is not the session's current one is `fenced` and is not written. A write
        that waited behind a take-over comes back fenced. Only a single row waits: of several, one whose fence
        somebody holds at the moment is `locked`, so that it keeps nobody up but itself. A row with a value that the
        database cannot hold is `refused` alone. Repeating the call after StoreUnavailable is safe: part of the rows
        may have been written.
        """
        ...

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        """Claim early batches that may join the turn and record the checkpoint with them, or neither.

        The oldest available ready batch decides: if it is not early, or of another agent or context, nothing
        joins. An exclusive one joins alone.
        """
        ...

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        """Land the turn: nodes, usage, head revision + 1, stamp, result, consumed (or dead) batches.

        Raises the fence, so that nothing of the turn can be written any more. Checked in the same statement: the
        fence, the head revision, that exactly `batch_ids` are claimed by the turn, that the turn is running, and
        with `refuse_if_joinable` that nothing may join. Idempotent: a repeat answers `already`.
        """
        ...

    def give_up(self, session_id: SessionId, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        """Leave a running turn for another worker. `crashed`: the next opening counts as after a death.

        False if the fence is no longer ours (then nothing was written).
        """
        ...

    def request_cancel(self, session_id: SessionId, turn_id: TurnId, reason: str) -> bool:
        """Ask that a turn be cancelled; idempotent. False if it is unknown or committed already."""
        ...


# ---------------------------------------------------------------- reading, fleet, maintenance


class SessionStore(Protocol):
    """What is committed, for reading; and the end of a session."""

    def head(self, session_id: SessionId) -> SessionHead | None: ...

    def sessions(self, limit: int = 100, after: SessionId | None = None) -> list[SessionHead]:
        """Sessions that are not deleted, by id, from after `after` on."""
        ...

    def history(self, session_id: SessionId, after_revision: int = 0) -> list[StoredNode]:
        """The nodes of the active path, oldest first."""
        ...

    def turn(self, session_id: SessionId, turn_id: TurnId) -> TurnRecord | None: ...

    def turns(self, session_id: SessionId, limit: int = 100, after_index: int = 0) -> list[TurnRecord]:
        """Turns of a session by index, the unfinished one included."""
        ...

    def usage(self, session_id: SessionId | None = None, since_ms: int = 0) -> list[UsageTotal]:
        """What committed turns have used, of one session or of all that are not deleted, by source and model.

        With `since_ms` only what was committed then or later.
        """
        ...

    def delete(self, session_id: SessionId) -> bool:
        """Tombstone the session, break the fence of whoever drives it, remove its rows but keep its fence.

        Every later enqueue is SessionDeleted and every later commit is fenced. Idempotent; False if unknown.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    worker: WorkerId
    host: str
    pid: int
    queues: tuple[str, ...]
    version: str
    started_at_ms: int
    seen_at_ms: int
    live: bool
    agents: Mapping[str, str] = field(default_factory=dict)
    """What it has the code for: agents' names to the refs of their snapshots."""
    machine_version: int = 0


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker learns from its beat."""

    cancels: frozenset[tuple[SessionId, TurnId]] = frozenset()
    """Turns of this worker that somebody cancelled."""
    foreign: frozenset[tuple[SessionId, TurnId]] = frozenset()
    """Turns that it drives and that another worker has taken or that are over."""
    idle: frozenset[tuple[SessionId, TurnId, int]] = frozenset()
    """Turns that SQL says it holds and that it did not say it drives, with their fences."""


class Fleet(Protocol):
    """Which workers live and what they have the code for."""

    def beat(self, worker: WorkerRecord, driving: Mapping[tuple[SessionId, TurnId], int]) -> Beat:
        """Say that this worker lives. `driving` maps the turns it drives to their fences. Changes no turn."""
        ...

    def leave(self, worker: WorkerId, *, crashed: bool = False) -> None:
        """The worker stops: its row goes, the turns it still holds are given up. Idempotent.

        `crashed`: somebody else says so, of a worker that is known to be dead; the next openings count.
        """
        ...

    def workers(self) -> list[WorkerRecord]: ...

    def register_agents(self, agents: Sequence[AgentSnapshot]) -> None:
        """Upsert the agents a worker serves, with their snapshots. Idempotent."""
        ...

    def agents(self) -> list[AgentSnapshot]:
        """The newest snapshot of every agent that a worker has registered, by name."""
        ...

    def snapshot(self, name: str, ref: str) -> AgentSnapshot:
        """The snapshot that a turn is pinned to; NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class Runnable:
    """Work that a worker may take up: an unfinished turn, or ready input (`turn_id` None)."""

    session_id: SessionId
    turn_id: TurnId | None = None
    pinned: Pinned | None = field(default=None, compare=False)
    """Of an unfinished turn, as `abandoned` lists it; None for one that is to be cancelled, by whatever worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What `prune` may remove: ages in milliseconds, None keeps."""

    keys_after_ms: int
    journals_after_ms: int | None = None
    workers_after_ms: int = 86_400_000


class WorkStore(Protocol):
    """The one predicate `runnable` in its three uses, and the removal of what is over. Bounded, idempotent."""

    def runnable(self, request: OpenRequest) -> Runnable | None:
        """What `open` would return for this request now, or None. Writes nothing."""
        ...

    def pinned(self, session_id: SessionId) -> Pinned | None:
        """What the session's unfinished turn is pinned to, if it has one."""
        ...

    def abandoned(
        self,
        agents: Sequence[str] | None,
        limit: int = 200,
        *,
        machine_version: int | None = None,
        besides: Collection[str] = (),
    ) -> list[Runnable]:
        """Unfinished turns that were given up or whose holder is no live worker: of `agents`, or of all with None.

        Turns of another machine version and those pinned to the snapshots `besides` are left out. Turns that are to
        be cancelled come in any case.
        """
        ...

    def ready(self, agents: Sequence[str], waiting_ms: int = 0, limit: int = 200) -> list[Runnable]:
        """Sessions whose oldest available batch has been ready for at least `waiting_ms`, with no unfinished turn."""
        ...

    def due(self, agents: Sequence[str], since_ms: int, limit: int = 200) -> list[Runnable]:
        """Sessions with a delayed batch that became available in the last `since_ms`, with no unfinished turn."""
        ...

    def prune(self, pruning: Pruning, limit: int = 1000) -> int:
        """Remove at most `limit` rows that are over; the number removed."""
        ...


class BlobStore(Protocol):
    """Content-addressed bytes."""

    def put(self, contents: Sequence[bytes]) -> list[BlobRef]:
        """Store what is not there yet. Idempotent."""
        ...

    def get(self, ref: BlobRef) -> bytes:
        """The bytes; NotFound."""
        ...


# ---------------------------------------------------------------- leases and live events


class LeaseState(StrEnum):
    HELD = "held"
    REASSERTED = "reasserted"
    """The key was gone and is ours again: Redis lost it, we did not."""
    FOREIGN = "foreign"
    """Another token has it: stop."""


class Released(StrEnum):
    """How a lease was when it was let go."""

    QUIET = "quiet"
    """It was ours all the time, and nobody was turned away."""
    KNOCKED = "knocked"
    """Somebody wanted it meanwhile and was turned away: look for what they came for."""
    LOST = "lost"
    """It was not ours any more, so nobody knows who came."""


class Leases(Protocol):
    """Who may try. Never decides who may write. Raises LeaseStoreUnavailable when Redis cannot be reached."""

    def acquire(self, scope: str, token: LeaseToken, ttl_ms: int) -> bool:
        """Take a free lease; False if any token, also this one, has it. Atomic: of many one wins.

        Whoever is turned away leaves a knock in the same step, which the holder finds when it lets go.
        """
        ...

    def renew(self, leases: Mapping[str, LeaseToken], ttl_ms: int) -> dict[str, LeaseState]:
        """Renew many in one round trip. A missing key is asserted again with our token, a foreign one is left."""
        ...

    def release(self, scope: str, token: LeaseToken) -> Released:
        """Let go, if the token is ours. When this returns, the key is certainly not ours any more."""
        ...

    def held(self, scopes: Collection[str]) -> frozenset[str]:
        """Those of `scopes` whose lease anybody has now, in one round trip. A hint: it may be wrong a moment later."""
        ...


class Slots(Protocol):
    """First come in a span of time: one of many workers does a periodic thing."""

    def take(self, name: str, ttl_ms: int) -> bool:
        """Whether this caller is the first for `name` within `ttl_ms`. True when Redis cannot be reached."""
        ...

    def take_many(self, names: Sequence[str], ttl_ms: int) -> list[bool]:
        """`take` for many names in one round trip."""
        ...


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An activity in the stream, with the cursor that resumes right after it."""

    cursor: str
    activity: TurnActivity


class GapReason(StrEnum):
    TRIMMED = "trimmed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class LiveGap:
    """Events after the cursor are gone; go on from `cursor`."""

    reason: GapReason
    cursor: str


@dataclass(frozen=True, slots=True)
class LiveBatch:
    events: tuple[LiveEvent, ...]
    cursor: str
    """Where to go on; the given one when nothing came."""


class LiveReplay(Protocol):
    """A bounded stream of live events per session. Best effort: no failure of it fails a turn."""

    def append(self, activities: Sequence[TurnActivity]) -> None:
        """Add events of any number of sessions, each session's in order, in one round trip.

        Never raises: a failure is logged and the events are lost.
        """
        ...

    def read(self, session_id: SessionId, cursor: str | None, wait_seconds: float) -> LiveBatch | LiveGap:
        """Events after `cursor`, waiting up to `wait_seconds` for the first; None = from the stream's end on.

        A gap when events after the cursor were trimmed, or when the stream is another one (lost and begun anew):
        `unavailable`. Raises InvalidInput (field `cursor`) for a malformed cursor or one of another session, and
        LeaseStoreUnavailable when Redis cannot be reached.
        """
        ...

    def tail(self, session_id: SessionId) -> str:
        """The cursor of the stream's end, which begins here if there is none; LeaseStoreUnavailable."""
        ...
