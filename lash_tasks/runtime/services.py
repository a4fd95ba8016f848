"""What the runtime works with, handed in by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import LeaseToken
from lash_tasks.ports import Doorbell, HookRunner, Providers, ToolRunner
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.gatekeeper import Gatekeeper
from lash_tasks.runtime.live_writer import LiveWriter
from lash_tasks.runtime.phases import PhaseProbe
from lash_tasks.stores.protocols import (
    BlobStore,
    Fleet,
    FrameStore,
    GraphStore,
    InputQueue,
    Leases,
    SessionStore,
    Slots,
    TurnStore,
    WorkStore,
)
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.rounds import RoundExecutor


@dataclass(frozen=True, kw_only=True)
class RuntimeServices:
    """One set per worker process. Everything here is safe from many threads."""

    clock: Clock
    turns: TurnStore
    frames: FrameStore
    queue: InputQueue
    graph: GraphStore
    sessions: SessionStore
    fleet: Fleet
    work: WorkStore
    blobs: BlobStore
    leases: Leases
    slots: Slots
    live: LiveWriter
    doorbell: Doorbell
    agents: Mapping[str, Agent]
    providers: Providers
    gatekeeper: Gatekeeper
    tools: ToolRunner
    hooks: HookRunner
    rounds: RoundExecutor
    new_token: Callable[[], LeaseToken]
    new_id: Callable[[], str]
    """For what is named once and recorded under that name before it is used."""
    lease_ttl_ms: int
    reached: Callable[[CrashPoint], None] = nothing_happens
    probe: PhaseProbe | None = None
