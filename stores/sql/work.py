"""What could run, and what is over: the predicate `runnable` in its uses, and pruning, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Delete,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)

from lash_tasks.domain.ids import SessionId, TurnId, effect_scope
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import TurnStatus
from lash_tasks.stores.protocols import OpenRequest, Pinned, Pruning, Runnable
from lash_tasks.stores.sql.attachments import SqlAttachmentStore, prune_attachments
from lash_tasks.stores.sql.conditions import (
    has_no_live_holder,
    has_no_turn,
    head_of_line,
    in_state,
    in_status,
    is_held_back,
    is_listed,
    is_not_deleted,
    is_to_be_cancelled,
    now_of,
    quiet_until,
)
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.graph import SqlGraphStore
from lash_tasks.stores.sql.tables import agents, batches, effects, sessions, turn_cancels, turns, workers

BLOB_PASSES_PER_PRUNING = 10
LEAST_BLOB_GRACE_MS = 3_600_000
_PINNED = (turns.c.agent, turns.c.agent_ref, turns.c.machine_version)


class SqlWorkStore:
    """`WorkStore` on Postgres and SQLite. `worker_ttl_ms` after its last beat a worker is taken for dead.

    `blobs_after` is where it begins to look for blobs to prune, see `SqlAttachmentStore`.
    """

    def __init__(self, database: Database, *, worker_ttl_ms: int = 6000, blobs_after: str = "") -> None:
        self._database = database
        self._worker_ttl_ms = worker_ttl_ms
        self._graph = SqlGraphStore(database)
        self._attachments = SqlAttachmentStore(database, blobs_after)

    def runnable(self, request: OpenRequest) -> Runnable | None:
        session_id = request.session_id
        free = or_(has_no_live_holder(now_of(self._database), self._worker_ttl_ms), turns.c.holder == request.worker)
        unfinished = select(
            turns.c.turn_id, *_PINNED, free.label("free"), is_to_be_cancelled().label("is_to_be_cancelled")
        ).where(turns.c.session_id == session_id, in_status(TurnStatus.RUNNING))
        head = select(head_of_line("agent", session_id, now_of(self._database))).where(is_not_deleted(session_id))
        with self._database.reading() as connection:
            turn = connection.execute(unfinished).one_or_none()
            if turn is not None:
                may = turn.is_to_be_cancelled or request.has_code_for(_pinned(turn))
                return Runnable(session_id, TurnId(turn.turn_id)) if turn.free and may else None
            agent = connection.execute(head).scalar_one_or_none()
        return Runnable(session_id) if agent in request.agents else None

    def pinned(self, session_id: SessionId) -> Pinned | None:
        query = select(*_PINNED).where(turns.c.session_id == session_id, in_status(TurnStatus.RUNNING))
        with self._database.reading() as connection:
            turn = connection.execute(query).one_or_none()
        return None if turn is None else _pinned(turn)

    def abandoned(
        self,
        agents: Sequence[str] | None,
        limit: int = 200,
        *,
        machine_version: int | None = None,
        besides: Collection[str] = (),
    ) -> list[Runnable]:
        of_agents = true() if agents is None else turns.c.agent.in_(agents)
        of_machine = true() if machine_version is None else turns.c.machine_version == machine_version
        query = (
            select(turns.c.session_id, turns.c.turn_id, *_PINNED, is_to_be_cancelled().label("is_to_be_cancelled"))
            .where(
                in_status(TurnStatus.RUNNING),
                or_(and_(of_agents, of_machine, turns.c.agent_ref.not_in(besides)), is_to_be_cancelled()),
                has_no_live_holder(now_of(self._database), self._worker_ttl_ms),
            )
            .order_by(turns.c.admitted_at_ms)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [
                Runnable(
                    SessionId(row.session_id),
                    TurnId(row.turn_id),
                    None if row.is_to_be_cancelled else _pinned(row),
                )
                for row in connection.execute(query)
            ]

    def ready(self, agents: Sequence[str], waiting_ms: int = 0, limit: int = 200) -> list[Runnable]:
        now = now_of(self._database)
        return self._sessions(
            select(batches.c.session_id)
            .where(
                in_state(BatchState.READY),
                is_listed(),
                batches.c.available_at_ms <= now - waiting_ms,
                batches.c.agent.in_(agents),
                ~is_held_back(batches, now),
                batches.c.seq == head_of_line("seq", batches.c.session_id, now),
                has_no_turn(batches.c.session_id),
                is_not_deleted(batches.c.session_id),
            )
            .order_by(batches.c.available_at_ms, batches.c.seq)
            .limit(limit)
        )

    def due(self, agents: Sequence[str], since_ms: int, limit: int = 200) -> list[Runnable]:
        now = now_of(self._database)
        delayed = select(batches.c.session_id, batches.c.available_at_ms.label("due_ms")).where(
            in_state(BatchState.READY),
            is_listed(),
            batches.c.available_at_ms > now - since_ms,
            batches.c.available_at_ms <= now,
            batches.c.available_at_ms > batches.c.enqueued_at_ms,
        )
        quiet = select(batches.c.session_id, quiet_until(batches).label("due_ms")).where(
            in_state(BatchState.READY), batches.c.quiet_ms.is_not(None)
        )
        due = union_all(delayed, quiet).subquery()
        query = (
            select(due.c.session_id, func.max(due.c.due_ms).label("due_ms"))
            .where(
                due.c.due_ms > now - since_ms,
                due.c.due_ms <= now,
                head_of_line("agent", due.c.session_id, now).in_(agents),
                has_no_turn(due.c.session_id),
                is_not_deleted(due.c.session_id),
            )
            .group_by(due.c.session_id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Runnable(SessionId(row.session_id), due_ms=row.due_ms) for row in connection.execute(query)]

    def _sessions(self, query: Select[str]) -> list[Runnable]:
        with self._database.reading() as connection:
            return [Runnable(SessionId(session_id)) for session_id in connection.execute(query).scalars()]

    # ------------------------------------------------------------ pruning

    def prune(self, pruning: Pruning, limit: int = 1000) -> int:
        kinds: list[Callable[[Connection, Pruning, int], int]] = [
            self._prune_batches,
            self._prune_input_of_deleted_sessions,
            self._prune_journals,
            self._prune_cancels,
            self._prune_workers,
            self._prune_snapshots,
            self._prune_attachments,
        ]
        removed = 0
        for prune_kind in kinds:
            with self._database.transaction() as connection:
                removed += prune_kind(connection, pruning, limit)
        removed += self._graph.remove_old(pruning.keys_after_ms, limit)
        return removed + self._prune_blobs(pruning, limit)

    def _prune_blobs(self, pruning: Pruning, limit: int) -> int:
        """Most of what is looked at stays, so more is looked at than may go."""
        grace_ms = max(pruning.blobs_after_ms, LEAST_BLOB_GRACE_MS)
        removed = 0
        for _ in range(BLOB_PASSES_PER_PRUNING):
            wanted = limit - removed
            found = self._attachments.gc(grace_ms, wanted)
            removed += found.deleted
            if removed == limit or found.retained + found.deleted < wanted:
                break
        return removed

    def _prune_batches(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        """Dead batches stay, for they can be replayed, and replays stay, for they say that it was done."""
        over = (
            select(batches.c.seq)
            .where(
                batches.c.ended_at_ms < now_of(self._database) - pruning.keys_after_ms,
                or_(in_state(BatchState.CONSUMED), in_state(BatchState.CANCELLED)),
                batches.c.replay_of.is_(None),
            )
            .order_by(batches.c.ended_at_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return _removed(connection, delete(batches).where(batches.c.seq.in_(over)))

    def _prune_input_of_deleted_sessions(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        """A sender that raced the deletion left it behind."""
        # A scalar subquery and no join: it starts from what is ready and not from all sessions.
        deleted_at_ms = select(sessions.c.deleted_at_ms).where(sessions.c.id == batches.c.session_id).scalar_subquery()
        left = select(batches.c.seq).where(in_state(BatchState.READY), deleted_at_ms.is_not(None)).limit(limit)
        return _removed(connection, delete(batches).where(batches.c.seq.in_(left)))

    def _prune_journals(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        """Whole turns are marked when nothing of them is left, so that no pass looks at them again.

        A turn that is marked counts when it had less than one row, so that a full pass is known for one.
        """
        if pruning.journals_after_ms is None:
            return 0
        closed = (
            select(turns.c.session_id, turns.c.turn_id)
            .where(
                in_status(TurnStatus.COMMITTED),
                turns.c.pruned_at_ms.is_(None),
                turns.c.committed_at_ms < now_of(self._database) - pruning.journals_after_ms,
            )
            .order_by(turns.c.committed_at_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        picked = [(SessionId(row.session_id), TurnId(row.turn_id)) for row in connection.execute(closed)]
        scopes = [effect_scope(session_id, turn_id) for session_id, turn_id in picked]
        key = tuple_(effects.c.scope, effects.c.replay_key)
        rows = select(effects.c.scope, effects.c.replay_key).where(effects.c.scope.in_(scopes)).limit(limit)
        removed = _removed(connection, delete(effects).where(key.in_(rows)))
        kept = set(connection.execute(select(effects.c.scope).where(effects.c.scope.in_(scopes))).scalars())
        empty = [turn for turn, scope in zip(picked, scopes, strict=True) if scope not in kept]
        mark = update(turns).where(tuple_(turns.c.session_id, turns.c.turn_id).in_(empty))
        connection.execute(mark.values(pruned_at_ms=self._database.now()))
        return max(removed, len(empty))

    def _prune_cancels(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        """A cancel that came while the turn was being committed."""
        key = tuple_(turn_cancels.c.session_id, turn_cancels.c.turn_id)
        # Columns by themselves and no join: it starts from the few cancels and not from all turns.
        committed = exists().where(
            turns.c.session_id == turn_cancels.c.session_id,
            turns.c.turn_id == turn_cancels.c.turn_id,
            in_status(TurnStatus.COMMITTED),
        )
        late = select(turn_cancels.c.session_id, turn_cancels.c.turn_id).where(committed).limit(limit)
        return _removed(connection, delete(turn_cancels).where(key.in_(late)))

    def _prune_workers(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        gone = (
            select(workers.c.id)
            .where(workers.c.seen_at_ms < now_of(self._database) - pruning.workers_after_ms)
            .limit(limit)
        )
        return _removed(connection, delete(workers).where(workers.c.id.in_(gone)))

    def _prune_snapshots(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        """Of each agent stay the newest, those that a worker serves, and those that a turn is pinned to."""
        newer = agents.alias("newer")
        superseded = exists().where(newer.c.name == agents.c.name, newer.c.seen_at_ms > agents.c.seen_at_ms)
        served = exists().where(workers.c.agents.contains(agents.c.ref))
        pinned = exists().where(
            in_status(TurnStatus.RUNNING), turns.c.agent == agents.c.name, turns.c.agent_ref == agents.c.ref
        )
        old = agents.c.seen_at_ms < now_of(self._database) - pruning.keys_after_ms
        key = tuple_(agents.c.name, agents.c.ref)
        over = select(agents.c.name, agents.c.ref).where(old, superseded, ~served, ~pinned).limit(limit)
        return _removed(connection, delete(agents).where(key.in_(over)))

    def _prune_attachments(self, connection: Connection, pruning: Pruning, limit: int) -> int:
        return prune_attachments(connection, self._database, pruning.keys_after_ms, limit)


def _pinned(turn: Row[*tuple[Any, ...]]) -> Pinned:
    return Pinned(turn.agent, turn.agent_ref, turn.machine_version)


def _removed(connection: Connection, statement: Delete) -> int:
    return connection.execute(statement).rowcount
