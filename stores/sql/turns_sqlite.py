"""The hot verbs of TurnStore on SQLite: each one short write transaction, so what it reads stands until it commits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert
from sqlalchemy.exc import DataError, IntegrityError

from lash_tasks.domain.codec import canonical
from lash_tasks.domain.ids import BatchId, effect_scope, queue_turn_id
from lash_tasks.domain.journal import EffectState, JournalRow, RecordReply, RecordVerdict
from lash_tasks.domain.queue import MAX_BATCHES_PER_CLAIM, BatchState, encode_joined
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
    Pinned,
    TurnCommit,
)
from lash_tasks.stores.sql import steps_sqlite as steps
from lash_tasks.stores.sql.caller_connections import SqlAlchemyConnection
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.rows import Row, batch_record
from lash_tasks.stores.sql.session_changes import apply_changes
from lash_tasks.stores.sql.tables import sessions, turns

_log = logging.getLogger(__name__)

_VALUE_REFUSED = (DataError, IntegrityError, OverflowError, UnicodeError)


class _UnfitError(Exception):
    """A part of a commit does not fit what is there; rolls the transaction back."""


class SqliteTurns:
    """`open`, `record`, `checkpoint` and `commit` of TurnStore."""

    def __init__(self, database: Database, worker_ttl_ms: int) -> None:
        self._database = database
        self._worker_ttl_ms = worker_ttl_ms

    # ------------------------------------------------------------ open

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        with self._database.transaction() as connection:
            now_ms = self._now_ms()
            unfinished = steps.running_turn(connection, request.session_id)
            session = steps.session(connection, request.session_id)
            if unfinished is None:
                refused = self._start(connection, request, session, now_ms)
            else:
                refused = self._resume(connection, request, unfinished, now_ms)
            return refused or steps.opened(connection, request, session, unfinished is not None, now_ms)

    def _start(
        self, connection: Connection, request: OpenRequest, session: Row | None, now_ms: int
    ) -> NotOpened | None:
        if session is not None and session["deleted_at_ms"] is not None:
            return NotOpened.NOTHING
        run = steps.next_run(connection, request.session_id, now_ms, MAX_BATCHES_PER_CLAIM)
        if not run:
            return NotOpened.NOTHING
        agent = run[0]["agent"]
        if agent not in request.agents:
            return NotOpened.HELD
        if session is None:
            connection.execute(insert(sessions).values(id=request.session_id, created_at_ms=now_ms))
        batch_ids = [BatchId(row["id"]) for row in run]
        turn_id = queue_turn_id(batch_ids)
        steps.claim(connection, turn_id, run)
        connection.execute(
            insert(turns).values(
                session_id=request.session_id,
                turn_id=turn_id,
                turn_index=(session["turn_index"] if session else 0) + 1,
                status=TurnStatus.RUNNING.value,
                base_revision=session["head_revision"] if session else 0,
                batch_ids=canonical(batch_ids).decode(),
                agent=agent,
                agent_ref=request.agents[agent],
                machine_version=request.machine_version,
                fence=steps.raise_fence(connection, request.session_id),
                holder=request.worker,
                admitted_at_ms=now_ms,
            )
        )
        return None

    def _resume(self, connection: Connection, request: OpenRequest, turn: Row, now_ms: int) -> NotOpened | None:
        holder = turn["holder"]
        if holder not in (None, request.worker) and steps.is_live(connection, holder, now_ms - self._worker_ttl_ms):
            return NotOpened.HOLDER_LIVES
        pinned = Pinned(turn["agent"], turn["agent_ref"], turn["machine_version"])
        if not request.has_code_for(pinned) and not steps.is_cancelled(connection, request.session_id, turn["turn_id"]):
            return NotOpened.HELD
        done = steps.count_done(connection, effect_scope(request.session_id, turn["turn_id"]))
        attempt = turn["attempt"]
        if holder not in (None, request.worker):
            attempt = 1 if done > turn["seen_effects"] else attempt + 1
        connection.execute(
            steps.update_turn(request.session_id, turn["turn_id"]).values(
                fence=steps.raise_fence(connection, request.session_id),
                holder=request.worker,
                seen_effects=done,
                attempt=attempt,
            )
        )
        return None

    # ------------------------------------------------------------ record

    def record(self, rows: Sequence[JournalRow], *, wait: bool) -> list[RecordReply]:
        with self._database.transaction() as connection:
            now_ms = self._now_ms()
            return [self._record(connection, row, now_ms) for row in rows]

    def _record(self, connection: Connection, row: JournalRow, now_ms: int) -> RecordReply:
        try:
            if steps.current_fence(connection, row.session_id) != row.fence:
                verdict = RecordVerdict.FENCED
            elif steps.write_effect(connection, row, now_ms):
                verdict = RecordVerdict.RECORDED
            else:
                verdict = RecordVerdict.EXISTS
            return RecordReply(
                verdict,
                steps.is_cancelled(connection, row.session_id, row.turn_id),
                steps.has_early_input(connection, row.session_id, now_ms),
            )
        except _VALUE_REFUSED as error:  # SQLite undoes the one statement and the transaction goes on
            _log.error(
                "journal row refused by the database",
                extra={"session_id": row.session_id, "turn_id": row.turn_id, "error": type(error).__name__},
            )
            return RecordReply(RecordVerdict.REFUSED)

    # ------------------------------------------------------------ checkpoint

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        with self._database.transaction() as connection:
            turn = steps.running_turn(connection, request.session_id)
            if turn is None or (turn["turn_id"], turn["fence"]) != (request.turn_id, request.fence):
                return CheckpointRefused.FENCED
            if steps.is_recorded(connection, request.row):
                return CheckpointRefused.EXISTS
            limit = min(request.limit, MAX_BATCHES_PER_CLAIM)
            run = steps.next_run(connection, request.session_id, self._now_ms(), limit)
            if not run or not steps.may_join(run[0], request.agent, request.context_digest):
                return CheckpointRefused.EMPTY
            steps.claim(connection, request.turn_id, run)
            joined = tuple(replace(batch_record(row), state=BatchState.CLAIMED, turn_id=request.turn_id) for row in run)
            row = replace(
                request.row,
                session_id=request.session_id,
                turn_id=request.turn_id,
                fence=request.fence,
                state=EffectState.DONE,
                outcome=encode_joined(joined),
            )
            steps.write_effect(connection, row, self._now_ms())
            return CheckpointTaken(joined)

    # ------------------------------------------------------------ commit

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        try:
            return self._commit(commit)
        except _UnfitError:
            return CommitRefused.CONFLICT

    def _commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        with self._database.transaction() as connection:
            now_ms = self._now_ms()
            refused = self._refusal(connection, commit, now_ms)
            if refused is not None:
                return refused
            revision = commit.base_revision + 1
            steps.move_head(connection, commit, revision)
            steps.raise_fence(connection, commit.session_id)  # shuts out whatever of the turn comes later
            connection.execute(
                steps.update_turn(commit.session_id, commit.turn_id).values(
                    status=TurnStatus.COMMITTED.value,
                    holder=None,
                    committed_at_ms=now_ms,
                    outcome=commit.outcome,
                    stamp=commit.stamp,
                    result=commit.result,
                )
            )
            steps.add_nodes(connection, commit, revision)
            steps.add_usage(connection, commit, now_ms)
            steps.end_batches(connection, commit, now_ms)
            if commit.follow_up is None:
                steps.forget_cancel(connection, commit.session_id, commit.turn_id)
            if not apply_changes(SqlAlchemyConnection(connection), commit, revision, now_ms):
                raise _UnfitError
            more = steps.first_ready(connection, commit.session_id, now_ms) is not None
            return Committed(revision, now_ms, more or commit.follow_up is not None)

    def _refusal(self, connection: Connection, commit: TurnCommit, now_ms: int) -> CommitRefused | None:
        turn = steps.turn(connection, commit.session_id, commit.turn_id)
        if turn is not None and turn["stamp"] is not None:
            return CommitRefused.ALREADY if turn["stamp"] == commit.stamp else CommitRefused.TURN_CONFLICT
        if steps.current_fence(connection, commit.session_id) != commit.fence:
            return CommitRefused.FENCED
        first = steps.first_ready(connection, commit.session_id, now_ms)
        if commit.refuse_if_joinable and steps.may_join(first, commit.agent, commit.context_digest):
            return CommitRefused.JOINABLE
        if steps.head_revision(connection, commit.session_id) != commit.base_revision:
            return CommitRefused.HEAD_CONFLICT
        claimed = (
            turn is not None
            and turn["status"] == TurnStatus.RUNNING
            and steps.claimed_ids(connection, commit.session_id, commit.turn_id) == set(commit.batch_ids)
        )
        return None if claimed else CommitRefused.CLAIM_EXPIRED

    def _now_ms(self) -> int:
        now_ms = self._database.now_override()
        assert now_ms is not None, "on SQLite the clock is always ours"
        return now_ms
