"""TurnStore in SQL: the verbs that both dialects share, and the choice between their hot ones."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text, update

from lash_tasks.domain.frames import is_of_run
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.journal import JournalRow, RecordReply
from lash_tasks.domain.turns import TurnStatus
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
)
from lash_tasks.stores.sql.conditions import in_status
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fencing import share_fence
from lash_tasks.stores.sql.rows import CRASHED
from lash_tasks.stores.sql.tables import turns
from lash_tasks.stores.sql.turns_postgres import PostgresTurns
from lash_tasks.stores.sql.turns_sqlite import SqliteTurns


class SqlTurnStore:
    """TurnStore. A worker counts as live for `worker_ttl_ms` after its last beat."""

    def __init__(self, database: Database, worker_ttl_ms: int = 6000) -> None:
        self._database = database
        hot = PostgresTurns if database.dialect == "postgresql" else SqliteTurns
        self._hot = hot(database, worker_ttl_ms)

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        return self._hot.open(request)

    def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
        return self._hot.record(rows, wait=wait)

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        return self._hot.checkpoint(request)

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        return self._hot.commit(commit)

    def give_up(self, session_id: SessionId, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        # The turn's own fence is enough: whoever raises the session's fence changes the turn in the same transaction.
        given_up = (
            update(turns)
            .where(
                turns.c.session_id == session_id,
                turns.c.turn_id == turn_id,
                turns.c.status == TurnStatus.RUNNING.value,
                turns.c.fence == fence,
            )
            .values(holder=CRASHED if crashed else None)
        )
        with self._database.transaction() as connection:
            return connection.execute(given_up).rowcount == 1

    def request_cancel(self, session_id: SessionId, turn_id: TurnId, reason: str) -> bool:
        running = select(turns.c.turn_id).where(turns.c.session_id == session_id, in_status(TurnStatus.RUNNING))
        with self._database.transaction() as connection:
            share_fence(connection, session_id)  # what a commit that is under way leaves is to be seen
            found = connection.execute(running).scalar()
            if found is None or not is_of_run(found, turn_id):
                return False
            connection.execute(
                text(
                    "INSERT INTO lash_turn_cancels (session_id, turn_id, cause, reason, requested_at_ms) "
                    f"VALUES (:session_id, :turn_id, 'request', :reason, {self._database.now_sql}) "
                    "ON CONFLICT DO NOTHING"
                ),
                {
                    "session_id": session_id,
                    "turn_id": found,
                    "reason": reason,
                    "now_ms": self._database.now_override(),
                },
            )
            return True
