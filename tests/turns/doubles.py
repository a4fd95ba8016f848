"""Stores that stand between the runtime and the real ones, for a test to override a verb of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lash_tasks.clock import Clock
from lash_tasks.domain.activity import TurnActivity
from lash_tasks.domain.ids import LeaseToken, SessionId, TurnId
from lash_tasks.domain.journal import JournalRow, RecordReply
from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.memory.leases import MemoryLeases
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointRequest,
    CheckpointTaken,
    CommitRefused,
    Committed,
    LeaseState,
    LiveBatch,
    LiveGap,
    NotOpened,
    OpenedTurn,
    OpenRequest,
    Pinned,
    Pruning,
    Released,
    Runnable,
    TurnCommit,
    TurnStore,
    WorkStore,
)


class TurnsBetween:
    """A TurnStore that passes everything on."""

    def __init__(self, turns: TurnStore) -> None:
        self.turns = turns

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        return self.turns.open(request)

    def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
        return self.turns.record(rows, wait=wait)

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        return self.turns.checkpoint(request)

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        return self.turns.commit(commit)

    def give_up(self, session_id: SessionId, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        return self.turns.give_up(session_id, turn_id, fence, crashed=crashed)

    def request_cancel(self, session_id: SessionId, turn_id: TurnId, reason: str) -> bool:
        return self.turns.request_cancel(session_id, turn_id, reason)


class WorkBetween:
    """A WorkStore that passes everything on."""

    def __init__(self, work: WorkStore) -> None:
        self.work = work

    def runnable(self, request: OpenRequest) -> Runnable | None:
        return self.work.runnable(request)

    def pinned(self, session_id: SessionId) -> Pinned | None:
        return self.work.pinned(session_id)

    def abandoned(
        self,
        agents: Sequence[str] | None,
        limit: int = 200,
        *,
        machine_version: int | None = None,
        besides: Collection[str] = (),
    ) -> list[Runnable]:
        return self.work.abandoned(agents, limit, machine_version=machine_version, besides=besides)

    def ready(self, agents: Sequence[str], waiting_ms: int = 0, limit: int = 200) -> list[Runnable]:
        return self.work.ready(agents, waiting_ms, limit)

    def due(self, agents: Sequence[str], since_ms: int, limit: int = 200) -> list[Runnable]:
        return self.work.due(agents, since_ms, limit)

    def prune(self, pruning: Pruning, limit: int = 1000) -> int:
        return self.work.prune(pruning, limit)


class LiveRecorder:
    """A live stream that nobody reads: it keeps every flush as it came."""

    def __init__(self) -> None:
        self.flushes: list[list[TurnActivity]] = []

    @property
    def events(self) -> list[TurnActivity]:
        return [event for flush in self.flushes for event in flush]

    def append(self, activities: Sequence[TurnActivity]) -> None:
        self.flushes.append(list(activities))

    def read(self, session_id: SessionId, cursor: str | None, wait_seconds: float) -> LiveBatch | LiveGap:
        raise AssertionError("a turn reads no live events")

    def tail(self, session_id: SessionId) -> str:
        raise AssertionError("a turn reads no live events")


class LeaseOutage:
    """Leases that are out of reach while `down`."""

    def __init__(self, clock: Clock) -> None:
        self.down = False
        self._leases = MemoryLeases(clock)

    def wrap(self, stores: Stores) -> Stores:
        return replace(stores, leases=self)

    def acquire(self, scope: str, token: LeaseToken, ttl_ms: int) -> bool:
        return self._reached().acquire(scope, token, ttl_ms)

    def renew(self, leases: Mapping[str, LeaseToken], ttl_ms: int) -> dict[str, LeaseState]:
        return self._reached().renew(leases, ttl_ms)

    def release(self, scope: str, token: LeaseToken) -> Released:
        return self._reached().release(scope, token)

    def held(self, scopes: Collection[str]) -> frozenset[str]:
        return self._reached().held(scopes)

    def _reached(self) -> MemoryLeases:
        if self.down:
            raise LeaseStoreUnavailable("Redis cannot be reached")
        return self._leases
