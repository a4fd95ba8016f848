"""How much a benchmark does."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of all scenes; by default those that figures are published of."""

    workers: int = 2
    keeps_workers: bool = False
    """Whether scenes share their workers; else each has new ones, and none run beside the control."""
    worker_threads: int = 100
    sessions: int = 100
    delayed_sessions: int = 200
    turns: int = 1000
    """At least as many are measured in a closed loop …"""
    seconds: float = 10.0
    """… and for at least so long …"""
    at_most_seconds: float = 60.0
    """… but no longer."""
    warm_up_turns: int = 300
    idle_turns: int = 200
    idle_warm_up: int = 30
    control_seconds: float = 5.0
    history: tuple[int, ...] = (0, 100, 1000)
    """Prior turns."""
    history_sessions: int = 10
    history_turns: int = 5
    wal_sessions: int = 20
    wal_turns: int = 2000
    kills: int = 5
    lease_ttl: float = 6.0

    def quick(self) -> Sizes:
        """Everything once, for a look at whether it works: its figures mean nothing."""
        return replace(
            self,
            workers=1,
            keeps_workers=True,
            worker_threads=16,
            sessions=8,
            delayed_sessions=16,
            turns=20,
            seconds=0.5,
            at_most_seconds=20.0,
            warm_up_turns=8,
            idle_turns=5,
            idle_warm_up=2,
            control_seconds=0.2,
            history=(0, 30),
            history_sessions=2,
            history_turns=2,
            wal_sessions=4,
            wal_turns=20,
            kills=1,
            lease_ttl=1.5,
        )
