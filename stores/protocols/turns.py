"""The life of a turn in SQL: what it is opened with, what it records, what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lash_tasks.domain.ids import BatchId, BlobRef, SessionId, TurnId, WorkerId
from lash_tasks.domain.journal import JournalRow, RecordedEffect, RecordReply
from lash_tasks.domain.messages import images
from lash_tasks.domain.queue import BatchRecord
from lash_tasks.domain.sessions import Node, Place, StoredNode, made_by_turn
from lash_tasks.domain.turns import TurnIntent
from lash_tasks.domain.usage import UsageEntry
from lash_tasks.stores.protocols.session_changes import FollowUp, FrameOpening, PathChange, SpecChange, StateWrite


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
    """The path as of this revision is known to the caller and need not be read, unless it has changed since."""

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
    claimed: tuple[BatchId, ...]
    """All that the turn has claimed so far, at its opening and at checkpoints, as its batches themselves say."""
    journal: tuple[RecordedEffect, ...]
    history: tuple[StoredNode, ...]
    """What the session shows, oldest first: nodes of the current frame on the active path that are not tombstoned."""
    whole: bool
    """`history` is all of it, and what the caller knew is no longer so; else what is newer than `known_revision`."""
    frame_id: str | None
    """The current frame, in which the turn's nodes belong. None: the initial one."""
    spec: str | None
    """JSON: what the session says over its agent's own policy. None: nothing."""
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
    leaf: Place | None = None
    """Where the first node hangs, each further one hangs from the one before it. None: it is a root."""
    states: tuple[StateWrite, ...] = ()
    """Named states that change; all others stay as they are."""
    spec: SpecChange | None = None
    frame: FrameOpening | None = None
    path: PathChange | None = None
    follow_up: FollowUp | None = None

    @property
    def changes_session(self) -> bool:
        """Whether more happens to the session than that its history grows."""
        parts = (self.states, self.spec, self.frame, self.path, self.follow_up, self.given, self.attachments)
        return any(parts)

    @property
    def attachments(self) -> tuple[BlobRef, ...]:
        """The blobs that its nodes refer to, each once, sorted."""
        seed = () if self.frame is None else self.frame.nodes
        return tuple(sorted({ref for node in (*self.nodes, *seed) for ref in images(node.message)}))

    @property
    def given(self) -> tuple[Node, ...]:
        """Nodes with ids that others than this turn may give as well."""
        seed = () if self.frame is None else self.frame.nodes
        return tuple(node for node in (*self.nodes, *seed) if not made_by_turn(node.node_id, self.turn_index))

    @property
    def moves_path(self) -> bool:
        """Whether the next turn sees another history than this turn's and its nodes: then nothing of it stays warm."""
        return bool(self.frame or self.path or self.given)


@dataclass(frozen=True, slots=True)
class Committed:
    revision: int
    committed_at_ms: int
    more: bool
    """Further input of the session is ready."""


class CommitRefused(StrEnum):
    ALREADY = "already"
    """The turn has this very stamp: an earlier commit landed and its answer was lost."""
    TURN_CONFLICT = "turn_conflict"
    """The turn has the stamp of other content: somebody else has ended it otherwise."""
    FENCED = "fenced"
    JOINABLE = "joinable"
    HEAD_CONFLICT = "head_conflict"
    """The session's head is not what the turn pinned: a bug; nothing was written."""
    CLAIM_EXPIRED = "claim_expired"
    """The turn does not run, or has not claimed exactly these batches: a bug; nothing was written."""
    CONFLICT = "conflict"
    """What the commit brings does not fit the session: its path, its frames, its states. Nothing was written."""

    @property
    def unfit(self) -> bool:
        """Whether the commit can never land as it is."""
        return self in (CommitRefused.HEAD_CONFLICT, CommitRefused.CLAIM_EXPIRED, CommitRefused.CONFLICT)


class TurnStore(Protocol):
    """The life of a turn in SQL. Every write but `open` and `request_cancel` is fenced."""

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        """Lock the session's fence; resume its unfinished turn or claim ready batches and write an intent.

        Raises the fence if and only if a turn is returned. An unfinished turn may be resumed when it was given up,
        when this worker holds it, or when its holder is no live worker, and if `request.has_code_for` what it is pinned
        to; one that is to be cancelled any worker may resume. Otherwise the first available batch decides, urgent
        ones before others and else in the order of arrival: alone if exclusive, or with the unbroken run of those
        behind it that are not exclusive either and have its merge key, kind, agent, context and `early` (at most
        64; without a merge key alone). Batches with a quiet period are passed over until the last of their merge
        key, agent and context is that old, or the first ten times as old. The session row
        comes to be with its first turn. `attempt` counts up when the former holder died and the journal has nothing
        new since the last opening, starts again at 1 when it has, and stays after a giving up that was not a crash.
        """
        ...

    def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
        """Write journal rows, possibly of many turns; one verdict per row, in order.

        First record wins: `begun` may become `done` once, under the same envelope; anything else on an existing
        key is `exists`. A row whose fence is not the session's current one is `fenced` and is not written. A write
        that waited behind a take-over comes back fenced. Only a single row waits, and only if it may: otherwise one
        whose fence somebody holds at the moment is `locked`, so that it keeps nobody up. A row with a value that the
        database cannot hold is `refused` alone. Repeating the call after StoreUnavailable is safe: part of the rows
        may have been written.
        """
        ...

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        """Claim early batches that may join the turn and record the checkpoint with them, or neither.

        The batch that `open` would begin with decides: if it is not early, or of another agent or context, nothing
        joins. An exclusive one joins alone.
        """
        ...

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        """Land the turn: nodes, usage, head revision + 1, stamp, result, consumed (or dead) batches.

        Raises the fence, so that nothing of the turn can be written any more. Checked in the same statement: the
        fence, the head revision, that exactly `batch_ids` are claimed by the turn, that the turn is running, and
        with `refuse_if_joinable` that nothing may join. Idempotent: a repeat answers `already`, and other content
        for a turn that is committed `turn_conflict`.

        With it land, in this order: the states, the spec, the new frame with its seed nodes, the change of the path,
        the follow-up. A path to a node that is not there is a `conflict`, and so is a frame that is there already.

        A node whose id is there already is a `conflict` if it has another content. With the same content it stays
        where it is, and if it was hidden it is shown again. That is looked at for the nodes `given`.
        """
        ...

    def give_up(self, session_id: SessionId, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        """Leave a running turn for another worker. `crashed`: the next opening counts as after a death.

        False if the fence is no longer ours (then nothing was written).
        """
        ...

    def request_cancel(self, session_id: SessionId, turn_id: TurnId, reason: str) -> bool:
        """Ask that a turn be cancelled; idempotent. False if it is unknown or committed already.

        Of one that has switched frames and committed, the turn that its run has come to is asked.
        """
        ...
