"""Which workers live and what they have the code for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.ids import SessionId, TurnId, WorkerId


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
        """Of every agent that a worker has registered, by name, the newest snapshot that can be read here."""
        ...

    def snapshot(self, name: str, ref: str) -> AgentSnapshot:
        """The snapshot that a turn is pinned to.

        NotFound, also of one that a later release has written and this one cannot read; UnsupportedRecordSchemaVersion.
        """
        ...
