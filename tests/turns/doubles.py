"""Stores that stand between the runtime and the real ones, for a test to override a verb of."""

from __future__ import annotations

from collections.abc import Sequence

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.journal import JournalRow, RecordReply
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointRequest,
    CheckpointTaken,
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    OpenRequest,
    TurnCommit,
    TurnStore,
)


class TurnsBetween:
    """A TurnStore that passes everything on."""

    def __init__(self, turns: TurnStore) -> None:
        self.turns = turns

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        return self.turns.open(request)

    def record(self, rows: Sequence[JournalRow]) -> list[RecordReply]:
        return self.turns.record(rows)

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        return self.turns.checkpoint(request)

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        return self.turns.commit(commit)

    def give_up(self, session_id: SessionId, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        return self.turns.give_up(session_id, turn_id, fence, crashed=crashed)

    def request_cancel(self, session_id: SessionId, turn_id: TurnId, reason: str) -> bool:
        return self.turns.request_cancel(session_id, turn_id, reason)
