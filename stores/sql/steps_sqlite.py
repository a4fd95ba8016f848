"""The single steps of the hot verbs on SQLite. Each runs inside the verb's write transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Exists, Update, case, delete, exists, func, insert, literal, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from lash_tasks.domain.ids import BatchId, SessionId, TurnId, blob_ref, effect_scope, fence_scope
from lash_tasks.domain.journal import EffectState, JournalRow
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import TurnStatus
from lash_tasks.stores.protocols import OpenedTurn, OpenRequest, TurnCommit
from lash_tasks.stores.sql.claiming import IN_ORDER, PICK, WAITING_COLUMNS, waits_for_quiet
from lash_tasks.stores.sql.conditions import in_order, is_held_back
from lash_tasks.stores.sql.paths import PATH_AS_SHOWN
from lash_tasks.stores.sql.rows import (
    INLINE_OUTCOME_BYTES,
    Row,
    all_nodes,
    batch_record,
    content_bytes,
    node_kind,
    recorded_effect,
    short_key,
    stored_node,
    turn_intent,
)
from lash_tasks.stores.sql.tables import (
    batches,
    blobs,
    dead_letters,
    effects,
    fences,
    nodes,
    sessions,
    turn_cancels,
    turns,
    usage,
    workers,
)

# ---------------------------------------------------------------- turns and fences


def running_turn(connection: Connection, session_id: SessionId) -> Row | None:
    query = select(turns).where(turns.c.session_id == session_id, turns.c.status == TurnStatus.RUNNING.value)
    return connection.execute(query).mappings().first()


def turn(connection: Connection, session_id: SessionId, turn_id: TurnId) -> Row | None:
    query = select(turns).where(turns.c.session_id == session_id, turns.c.turn_id == turn_id)
    return connection.execute(query).mappings().first()


def update_turn(session_id: SessionId, turn_id: TurnId) -> Update:
    return update(turns).where(turns.c.session_id == session_id, turns.c.turn_id == turn_id)


def current_fence(connection: Connection, session_id: SessionId) -> int | None:
    fence: int | None = connection.execute(
        select(fences.c.fence).where(fences.c.scope == fence_scope(session_id))
    ).scalar()
    return fence


def raise_fence(connection: Connection, session_id: SessionId) -> int:
    """Raise the session's fence, or begin it at 1; the new one."""
    begun = upsert(fences).values(scope=fence_scope(session_id), fence=1)
    raised = begun.on_conflict_do_update(index_elements=["scope"], set_={"fence": fences.c.fence + 1})
    fence: int = connection.execute(raised.returning(fences.c.fence)).scalar_one()
    return fence


def is_live(connection: Connection, worker: str, seen_after_ms: int) -> bool:
    return _yes(connection, exists().where(workers.c.id == worker, workers.c.seen_at_ms > seen_after_ms))


def is_cancelled(connection: Connection, session_id: SessionId, turn_id: TurnId) -> bool:
    cancel = exists().where(turn_cancels.c.session_id == session_id, turn_cancels.c.turn_id == turn_id)
    return _yes(connection, cancel)


def forget_cancel(connection: Connection, session_id: SessionId, turn_id: TurnId) -> None:
    connection.execute(
        delete(turn_cancels).where(turn_cancels.c.session_id == session_id, turn_cancels.c.turn_id == turn_id)
    )


def session(connection: Connection, session_id: SessionId) -> Row | None:
    return connection.execute(select(sessions).where(sessions.c.id == session_id)).mappings().first()


def opened(connection: Connection, request: OpenRequest, session: Row | None, resumed: bool, now_ms: int) -> OpenedTurn:
    """The running turn of the session with all that its driver needs. `session` as it was found, None before it was."""
    row = running_turn(connection, request.session_id)
    assert row is not None
    intent = turn_intent(row)
    claimed = connection.execute(select(batches).where(batches.c.id.in_(intent.batch_ids))).mappings()
    by_id = {batch["id"]: batch for batch in claimed}
    context_digest = by_id[intent.batch_ids[0]]["context_digest"]
    whole = session is None or request.known_revision < max(session["path_revision"], 1)
    if session is not None and session["branched"] and whole:
        history = connection.execute(_BRANCHED_HISTORY, {"session_id": intent.session_id}).mappings()
    else:
        first_revision = request.known_revision + 1
        if session is not None and whole:
            first_revision = session["visible_from"]
        query = select(nodes).where(
            nodes.c.session_id == intent.session_id,
            nodes.c.revision >= first_revision,
            nodes.c.frame_id.is_not_distinct_from(session["frame_id"] if session else None),
            nodes.c.tombstoned_at_ms.is_(None),
        )
        history = connection.execute(query.order_by(nodes.c.revision, nodes.c.ordinal)).mappings()
    return OpenedTurn(
        intent=intent,
        resumed=resumed,
        fence=row["fence"],
        attempt=row["attempt"],
        batches=tuple(batch_record(by_id[batch_id]) for batch_id in intent.batch_ids),
        claimed=tuple(sorted(claimed_ids(connection, intent.session_id, intent.turn_id)))
        if resumed
        else intent.batch_ids,
        journal=tuple(
            recorded_effect(row, intent)
            for row in _journal(connection, effect_scope(intent.session_id, intent.turn_id))
        ),
        history=tuple(map(stored_node, history)),
        whole=whole,
        frame_id=session["frame_id"] if session else None,
        spec=session["spec"] if session else None,
        cancel=is_cancelled(connection, intent.session_id, intent.turn_id),
        joinable=may_join(first_ready(connection, intent.session_id, now_ms), intent.agent, context_digest),
    )


_BRANCHED_HISTORY = text(PATH_AS_SHOWN)

# ---------------------------------------------------------------- waiting input

_PICKED = text(f"""
WITH waiting AS (
  SELECT {WAITING_COLUMNS} FROM lash_batches b
  WHERE b.session_id = :session_id AND b.state = 'ready' AND b.available_at_ms <= :now_ms
    AND NOT {waits_for_quiet(":now_ms")}
  ORDER BY {IN_ORDER} LIMIT :limit),
{PICK}
SELECT seq FROM picked""")


def next_run(connection: Connection, session_id: SessionId, now_ms: int, limit: int) -> Sequence[Row]:
    """The batches that run next and together, in order: the first is the one that decides."""
    seqs = connection.execute(_PICKED, {"session_id": session_id, "now_ms": now_ms, "limit": limit}).scalars().all()
    return connection.execute(select(batches).where(batches.c.seq.in_(seqs)).order_by(batches.c.seq)).mappings().all()


def first_ready(connection: Connection, session_id: SessionId, now_ms: int) -> Row | None:
    query = select(batches).where(
        batches.c.session_id == session_id,
        batches.c.state == BatchState.READY.value,
        batches.c.available_at_ms <= now_ms,
        ~is_held_back(batches, literal(now_ms)),
    )
    return connection.execute(query.order_by(*in_order(batches)).limit(1)).mappings().first()


def may_join(first: Row | None, agent: str, context_digest: str) -> bool:
    """Whether the batch that decides may enter a running turn of this agent and context."""
    return first is not None and first["early"] and (first["agent"], first["context_digest"]) == (agent, context_digest)


def has_early_input(connection: Connection, session_id: SessionId, now_ms: int) -> bool:
    first = first_ready(connection, session_id, now_ms)
    return first is not None and bool(first["early"])


def claim(connection: Connection, turn_id: TurnId, run: Sequence[Row]) -> None:
    connection.execute(
        update(batches)
        .where(batches.c.seq.in_([row["seq"] for row in run]))
        .values(state=BatchState.CLAIMED.value, turn_id=turn_id)
    )


def claimed_ids(connection: Connection, session_id: SessionId, turn_id: TurnId) -> set[BatchId]:
    query = select(batches.c.id).where(
        batches.c.session_id == session_id,
        batches.c.turn_id == turn_id,
        batches.c.state == BatchState.CLAIMED.value,
    )
    return set(map(BatchId, connection.execute(query).scalars()))


# ---------------------------------------------------------------- journal


def _journal(connection: Connection, scope: str) -> Sequence[Row]:
    columns = [effects.c[name] for name in ("replay_key", "ordinal", "fence", "state", "envelope")]
    query = (
        select(*columns, func.coalesce(effects.c.outcome, blobs.c.content).label("outcome"))
        .outerjoin(blobs, blobs.c.ref == effects.c.outcome_ref)
        .where(effects.c.scope == scope)
        .order_by(effects.c.ordinal, effects.c.replay_key)
    )
    return connection.execute(query).mappings().all()


def count_done(connection: Connection, scope: str) -> int:
    done: int = connection.execute(
        select(func.count()).where(effects.c.scope == scope, effects.c.state == EffectState.DONE.value)
    ).scalar_one()
    return done


def is_recorded(connection: Connection, row: JournalRow) -> bool:
    scope = effect_scope(row.session_id, row.turn_id)
    key = short_key(row.replay_key, row.session_id, row.turn_id)
    return _yes(connection, exists().where(effects.c.scope == scope, effects.c.replay_key == key))


def write_effect(connection: Connection, row: JournalRow, now_ms: int) -> bool:
    """Insert the effect, or make a begun one done; False if another record stands."""
    large = row.outcome is not None and len(row.outcome) > INLINE_OUTCOME_BYTES
    reference = blob_ref(row.outcome) if large and row.outcome is not None else None
    given = upsert(effects).values(
        scope=effect_scope(row.session_id, row.turn_id),
        replay_key=short_key(row.replay_key, row.session_id, row.turn_id),
        ordinal=row.ordinal,
        fence=row.fence,
        state=row.state.value,
        envelope=row.envelope,
        outcome=None if large else row.outcome,
        outcome_ref=reference,
    )
    first_wins = given.on_conflict_do_update(
        index_elements=["scope", "replay_key"],
        set_={name: given.excluded[name] for name in ("state", "fence", "outcome", "outcome_ref")},
        where=(effects.c.state == EffectState.BEGUN.value)
        & (given.excluded.state == EffectState.DONE.value)
        & (effects.c.envelope == given.excluded.envelope),
    )
    written = connection.execute(first_wins.returning(effects.c.replay_key)).first() is not None
    if written and reference is not None:
        put = upsert(blobs).values(ref=reference, content=row.outcome, touched_at_ms=now_ms)
        young = case((blobs.c.touched_at_ms == 0, 0), else_=put.excluded.touched_at_ms)
        connection.execute(put.on_conflict_do_update(index_elements=["ref"], set_={"touched_at_ms": young}))
    return written


# ---------------------------------------------------------------- commit


def head_revision(connection: Connection, session_id: SessionId) -> int | None:
    """The revision of a session that is there and not deleted."""
    revision: int | None = connection.execute(
        select(sessions.c.head_revision).where(sessions.c.id == session_id, sessions.c.deleted_at_ms.is_(None))
    ).scalar()
    return revision


def move_head(connection: Connection, commit: TurnCommit, revision: int) -> None:
    leaf = {"leaf_revision": None, "leaf_ordinal": None} if all_nodes(commit) else {}
    connection.execute(
        update(sessions)
        .where(sessions.c.id == commit.session_id)
        .values(head_revision=revision, turn_index=commit.turn_index, **leaf)
    )


def add_nodes(connection: Connection, commit: TurnCommit, revision: int) -> None:
    rows = [
        {
            "session_id": commit.session_id,
            "revision": revision,
            "ordinal": ordinal,
            "node_id": node.node_id,
            "parent_id": node.parent_id,
            "frame_id": node.frame_id,
            "message": content_bytes(node),
            "kind": node_kind(node),
            "parent_revision": commit.leaf.revision if commit.leaf and ordinal == 0 else None,
            "parent_ordinal": commit.leaf.ordinal if commit.leaf and ordinal == 0 else None,
        }
        for ordinal, node in enumerate(all_nodes(commit))
    ]
    if rows:
        connection.execute(insert(nodes), rows)


def add_usage(connection: Connection, commit: TurnCommit, now_ms: int) -> None:
    rows = [
        {
            "session_id": commit.session_id,
            "effect_key": short_key(entry.effect_key, commit.session_id, commit.turn_id),
            "source": entry.source,
            "model": entry.model,
            "input_tokens": entry.usage.input_tokens,
            "output_tokens": entry.usage.output_tokens,
            "cached_input_tokens": entry.usage.cached_input_tokens,
            "reasoning_tokens": entry.usage.reasoning_tokens,
            "counted_at_ms": now_ms,
        }
        for entry in commit.usage
    ]
    if rows:
        connection.execute(upsert(usage).on_conflict_do_nothing(), rows)


def end_batches(connection: Connection, commit: TurnCommit, now_ms: int) -> None:
    """Consume the batches, or bury them with the reason."""
    state = BatchState.CONSUMED if commit.dead_reason is None else BatchState.DEAD
    connection.execute(
        update(batches).where(batches.c.id.in_(commit.batch_ids)).values(state=state.value, ended_at_ms=now_ms)
    )
    if commit.dead_reason is not None:
        rows = [
            {
                "batch_id": batch_id,
                "session_id": commit.session_id,
                "turn_id": commit.turn_id,
                "reason": commit.dead_reason,
                "died_at_ms": now_ms,
            }
            for batch_id in commit.batch_ids
        ]
        connection.execute(insert(dead_letters), rows)


def _yes(connection: Connection, condition: Exists) -> bool:
    return bool(connection.execute(select(condition)).scalar())
