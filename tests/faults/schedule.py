"""Which faults a run meets, in which order and how far apart: drawn from its seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    KILL = "kill"
    """SIGKILL a worker; another takes its place."""
    ZOMBIE = "zombie"
    """SIGSTOP a worker until it is taken for dead, then SIGCONT: it writes late."""
    FLUSH = "flush"
    """FLUSHALL: leases, messages and live events are gone."""
    REDIS_RESTART = "redis_restart"
    """SIGKILL Redis, which keeps nothing, and start it again."""
    POSTGRES_CRASH = "postgres_crash"
    """The "immediate" stop of PostgreSQL, and its recovery."""
    POSTGRES_RESTART = "postgres_restart"
    """The "fast" stop: every connection is cut."""
    DOUBLE_RINGS = "double_rings"
    """Messages that ring again and again for sessions at work and idle."""
    DROP_RINGS = "drop_rings"
    """The messages that wait in the broker vanish."""
    KILL_SENDER = "kill_sender"
    """SIGKILL the process that sends, in the middle of it; another goes on with the same keys."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    after_seconds: float
    """Since the fault before it."""
    chance: float
    """A number from 0 to 1 for what is left to choose: the victim, how long it takes."""


def schedule(seed: int, counts: Mapping[FaultKind, int], mean_gap: float) -> list[Fault]:
    """So many faults of each kind, in an order and with gaps that the seed says."""
    dice = random.Random(seed)
    kinds = [kind for kind in FaultKind for _ in range(counts.get(kind, 0))]
    dice.shuffle(kinds)
    return [Fault(kind, dice.uniform(0.1, 2 * mean_gap), dice.random()) for kind in kinds]


def share(count: int, part: int, parts: int) -> int:
    """What part `part` of `parts` (counted from 1) has of `count`; the parts add up to it."""
    return count * part // parts - count * (part - 1) // parts
