"""A session as a small program: who may write, what a turn has claimed, and what a commit leaves; no database in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lash_tasks.domain.ids import BatchId, SessionId, TurnId, WorkerId, queue_turn_id
from lash_tasks.domain.journal import EffectState, RecordVerdict
from lash_tasks.domain.queue import BatchState, CancelVerdict, When
from lash_tasks.stores.protocols import CheckpointRefused, CommitRefused, NotOpened
from tests.conformance.queue_model import QueueModel, Sent

CRASHED = "crashed"


@dataclass
class TurnModel:
    """An unfinished turn."""

    id: TurnId
    index: int
    base_revision: int
    intent: list[Sent]
    fence: int
    holder: str | None
    claimed: list[Sent]
    attempt: int = 1
    seen: int = 0
    effects: dict[str, EffectState] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return sum(state is EffectState.DONE for state in self.effects.values())


@dataclass
class SessionModel:
    """One session. Each verb changes it and says what a store must answer."""

    id: SessionId
    queue: QueueModel = field(default_factory=QueueModel)
    turn: TurnModel | None = None
    fence: int = 0
    head: int = 0
    turn_index: int = 0
    known: bool = False
    deleted: bool = False
    batches: dict[BatchId, tuple[BatchState, TurnId | None]] = field(default_factory=dict)
    sent: dict[BatchId, Sent] = field(default_factory=dict)
    keys: dict[str, BatchId] = field(default_factory=dict)
    stamps: dict[TurnId, str] = field(default_factory=dict)
    dead: set[BatchId] = field(default_factory=set)
    effects: set[tuple[TurnId, str]] = field(default_factory=set)

    # ------------------------------------------------------------ senders

    def send(self, sent: Sent, key: str | None = None) -> None:
        self.known = True
        self.queue.send(sent)
        self.sent[sent.id] = sent
        self.batches[sent.id] = (BatchState.READY, None)
        if key is not None:
            self.keys[key] = sent.id

    @property
    def busy(self) -> bool:
        return self.turn is not None or bool(self.queue.waiting)

    def cancel(self, batch_id: BatchId) -> tuple[CancelVerdict, TurnId | None] | None:
        if batch_id not in self.batches:
            return None
        state, turn_id = self.batches[batch_id]
        if state is BatchState.READY:
            self.queue.cancel(self.sent[batch_id])
            self.batches[batch_id] = (BatchState.CANCELLED, None)
            return CancelVerdict.CANCELLED, None
        return (CancelVerdict.TAKEN if state is BatchState.CLAIMED else CancelVerdict.ENDED), turn_id

    # ------------------------------------------------------------ workers

    def open(
        self, worker: WorkerId, agents: Mapping[str, str], live: Collection[str], now_ms: int
    ) -> TurnModel | NotOpened:
        return self._start(worker, agents, now_ms) if self.turn is None else self._resume(worker, agents, live)

    def _start(self, worker: WorkerId, agents: Mapping[str, str], now_ms: int) -> TurnModel | NotOpened:
        run = [] if self.deleted else self.queue.next_run(now_ms)
        if not run:
            return NotOpened.NOTHING
        if run[0].agent not in agents:
            return NotOpened.HELD
        self.queue.open(now_ms)
        self.fence += 1
        turn_id = queue_turn_id([sent.id for sent in run])
        self.turn = TurnModel(turn_id, self.turn_index + 1, self.head, run, self.fence, worker, list(run))
        self._now(run, BatchState.CLAIMED)
        return self.turn

    def _resume(self, worker: WorkerId, agents: Mapping[str, str], live: Collection[str]) -> TurnModel | NotOpened:
        turn = self.turn
        assert turn is not None
        died = turn.holder not in (None, worker)
        if died and turn.holder in live:
            return NotOpened.HOLDER_LIVES
        if turn.intent[0].agent not in agents and not self.queue.cancelled:
            return NotOpened.HELD
        if died:
            turn.attempt = 1 if turn.done > turn.seen else turn.attempt + 1
        self.fence += 1
        turn.fence, turn.holder, turn.seen = self.fence, worker, turn.done
        return turn

    def record(self, turn_id: TurnId, fence: int, key: str, state: EffectState) -> RecordVerdict:
        if self.fence != fence:
            return RecordVerdict.FENCED
        turn = self.turn
        assert turn is not None
        assert turn.id == turn_id
        if key in turn.effects and (turn.effects[key], state) != (EffectState.BEGUN, EffectState.DONE):
            return RecordVerdict.EXISTS
        turn.effects[key] = state
        self.effects.add((turn_id, key))
        return RecordVerdict.RECORDED

    def checkpoint(self, turn_id: TurnId, fence: int, key: str, now_ms: int) -> list[Sent] | CheckpointRefused:
        turn = self.turn
        if turn is None or (turn.id, turn.fence) != (turn_id, fence):
            return CheckpointRefused.FENCED
        if key in turn.effects:
            return CheckpointRefused.EXISTS
        joined = self.queue.checkpoint(now_ms)
        if not joined:
            return CheckpointRefused.EMPTY
        turn.claimed += joined
        turn.effects[key] = EffectState.DONE
        self.effects.add((turn_id, key))
        self._now(joined, BatchState.CLAIMED)
        return joined

    def commit(
        self,
        turn_id: TurnId,
        fence: int,
        batch_ids: Collection[BatchId],
        stamp: str,
        now_ms: int,
        *,
        may_wait: bool,
        dead: bool,
    ) -> int | CommitRefused:
        """The new revision, or the refusal."""
        if turn_id in self.stamps:
            return CommitRefused.ALREADY if self.stamps[turn_id] == stamp else CommitRefused.TURN_CONFLICT
        if self.fence != fence:
            return CommitRefused.FENCED
        turn = self.turn
        assert turn is not None
        if may_wait and self.queue.joinable(now_ms):
            return CommitRefused.JOINABLE
        if {sent.id for sent in turn.claimed} != set(batch_ids):
            return CommitRefused.CLAIM_EXPIRED
        self.head += 1
        self.fence += 1
        self.turn_index = turn.index
        self.stamps[turn_id] = stamp
        self._now(turn.claimed, BatchState.DEAD if dead else BatchState.CONSUMED)
        if dead:
            self.dead |= set(batch_ids)
        self.turn = None
        self.queue.commit()
        return self.head

    def give_up(self, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        turn = self.turn
        if turn is None or (turn.id, turn.fence) != (turn_id, fence):
            return False
        turn.holder = CRASHED if crashed else None
        return True

    def request_cancel(self, turn_id: TurnId) -> bool:
        if self.turn is None or self.turn.id != turn_id:
            return False
        self.queue.cancelled = True
        return True

    # ------------------------------------------------------------ the end

    def delete(self) -> bool:
        if not (self.known or self.fence):
            return False
        self.fence += 1
        self.deleted, self.known = True, True
        self.turn = None
        self.queue = QueueModel()
        for gone in (self.batches, self.sent, self.keys, self.stamps, self.dead, self.effects):
            gone.clear()
        return True

    def _now(self, taken: list[Sent], state: BatchState) -> None:
        assert self.turn is not None
        for sent in taken:
            self.batches[sent.id] = (state, self.turn.id)


def when_sent_again(when: When) -> When:
    """How a dead input comes back: as it was, but without the hurry."""
    return When.QUEUE if when is When.INTERRUPT else when
