"""Which unfinished turns no worker that lives has the code for, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.turns import TurnRecord, TurnStatus
from lash_tasks.errors import NotFound, UnsupportedRecordSchemaVersion
from lash_tasks.stores.protocols import Fleet, Pinned, WorkerRecord, WorkStore


@dataclass(frozen=True, slots=True)
class HeldTurn:
    """A turn that waits for a worker of another version; `why` says what the living ones lack."""

    session_id: SessionId
    turn_id: TurnId
    agent: str
    why: str


class LivingCode:
    """What the workers that live now have the code for. One look: make another for a later one."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.workers: list[WorkerRecord] = [worker for worker in fleet.workers() if worker.live]
        self._snapshots: dict[tuple[str, str], AgentSnapshot | None] = {}

    @property
    def agents(self) -> frozenset[str]:
        """The names of the agents that somebody serves."""
        return frozenset(name for worker in self.workers for name in worker.agents)

    def held(self, work: WorkStore, limit: int) -> Iterator[HeldTurn]:
        """Of the first `limit` turns that nobody drives, those that none of the living can. None if nobody lives."""
        for turn in work.abandoned(None, limit):
            why = None if turn.pinned is None else self._why_held(turn.pinned)
            if turn.turn_id is not None and turn.pinned is not None and why is not None:
                yield HeldTurn(turn.session_id, turn.turn_id, turn.pinned.agent, why)

    def why_held(self, turn: TurnRecord) -> str | None:
        """Why nobody goes on with the turn; None if somebody does or could."""
        if turn.status is not TurnStatus.RUNNING or any(worker.worker == turn.holder for worker in self.workers):
            return None
        return self._why_held(Pinned(turn.agent, turn.agent_ref, turn.machine_version))

    def _why_held(self, pinned: Pinned) -> str | None:
        if not self.workers:
            return None  # whichever comes first may have it
        serving = [worker for worker in self.workers if pinned.agent in worker.agents]
        if not serving:
            return f"no worker serves the agent {pinned.agent!r}"
        current = [worker for worker in serving if worker.machine_version == pinned.machine_version]
        if not current:
            return f"it was begun by a release of lash-tasks with machine version {pinned.machine_version}"
        needed = self._snapshot(pinned.agent, pinned.ref)
        lacks: tuple[str, ...] = ()
        for ref in {worker.agents[pinned.agent] for worker in current}:
            served = self._snapshot(pinned.agent, ref)
            lacks = ("what it began with",) if needed is None or served is None else served.lacks(needed)
            if ref == pinned.ref or not lacks:
                return None
        return f"no worker's agent {pinned.agent!r} has {' and '.join(lacks)}"

    def _snapshot(self, name: str, ref: str) -> AgentSnapshot | None:
        if (name, ref) not in self._snapshots:
            try:
                self._snapshots[name, ref] = self._fleet.snapshot(name, ref)
            except (NotFound, UnsupportedRecordSchemaVersion):
                self._snapshots[name, ref] = None
        return self._snapshots[name, ref]
