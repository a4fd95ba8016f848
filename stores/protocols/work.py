"""Work that a worker may take up, and the removal of what is over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.stores.protocols.turns import OpenRequest, Pinned


@dataclass(frozen=True, slots=True)
class Runnable:
    """Work that a worker may take up: an unfinished turn, or ready input (`turn_id` None)."""

    session_id: SessionId
    turn_id: TurnId | None = None
    pinned: Pinned | None = field(default=None, compare=False)
    """Of an unfinished turn, as `abandoned` lists it; None for one that is to be cancelled, by whatever worker."""
    due_ms: int | None = field(default=None, compare=False)
    """Of input, as `due` lists it: since when it may be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What `prune` may remove: ages in milliseconds, None keeps."""

    keys_after_ms: int
    journals_after_ms: int | None = None
    workers_after_ms: int = 86_400_000
    blobs_after_ms: int = 3_600_000
    """Since they were last put. Under an hour counts as an hour: a caller's transaction may be open for long."""


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
        """Sessions whose next batch has been available for at least `waiting_ms`, with no unfinished turn."""
        ...

    def due(self, agents: Sequence[str], since_ms: int, limit: int = 200) -> list[Runnable]:
        """Sessions whose delayed batch became available, or whose merging ones became quiet, in the last `since_ms`.

        Without those that have an unfinished turn.
        """
        ...

    def prune(self, pruning: Pruning, limit: int = 1000) -> int:
        """Remove what is over, of each kind at most `limit` rows; the number removed.

        With `limit` or more there may be more to do, and a further call goes on.
        """
        ...
