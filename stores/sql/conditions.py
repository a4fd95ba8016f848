"""Conditions that several stores share, written once: literal states, liveness, unfinished turns, the head of a line.

States stand in them as literals: a partial index fits a prepared plan only if its condition does not hang on a
parameter. The time is a scalar subquery: an index range takes no volatile function.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, FromClause, ScalarSelect, and_, case, exists, func, literal, or_, select

from lash_tasks.domain.queue import LONGEST_QUIET, BatchState
from lash_tasks.domain.turns import TurnStatus
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import FOREVER_MS, batches, sessions, turn_cancels, turns, workers


def now_of(database: Database) -> ScalarSelect[int]:
    return select(database.now()).scalar_subquery()


def in_state(state: BatchState, table: FromClause = batches) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = table.c.state == literal(state.value, literal_execute=True)
    return condition


def is_listed() -> ColumnElement[bool]:
    """Of a ready batch: it is in the index of due times, as every one is.

    Only what looks for the ready input of all sessions says so. Whatever asks for one session's must not imply the
    index's condition: on statistics from when nothing waited, a walk through the whole index looks as cheap as a probe.
    """
    return batches.c.available_at_ms < literal(FOREVER_MS, literal_execute=True)


def in_status(status: TurnStatus) -> ColumnElement[bool]:
    return turns.c.status == literal(status.value, literal_execute=True)


def has_no_live_holder(now: ScalarSelect[int], worker_ttl_ms: int) -> ColumnElement[bool]:
    """Of a running turn: no worker that lives holds it, be it that it was given up or that its holder died."""
    return ~exists().where(workers.c.id == turns.c.holder, workers.c.seen_at_ms > now - worker_ttl_ms)


def has_no_turn(session_id: ColumnElement[str]) -> ColumnElement[bool]:
    """As a scalar, which is asked first; NOT EXISTS would be joined at the end, after walks through whole lines."""
    turn_id = select(turns.c.turn_id).where(turns.c.session_id == session_id, in_status(TurnStatus.RUNNING))
    unfinished: ScalarSelect[str] = turn_id.scalar_subquery()
    return unfinished.is_(None)


def is_to_be_cancelled() -> ColumnElement[bool]:
    """Of a running turn: somebody has asked for its end, which any worker can bring about."""
    return exists().where(turn_cancels.c.session_id == turns.c.session_id, turn_cancels.c.turn_id == turns.c.turn_id)


def is_not_deleted(session_id: ColumnElement[str] | str) -> ColumnElement[bool]:
    return ~exists().where(sessions.c.id == session_id, sessions.c.deleted_at_ms.is_not(None))


def in_order(table: FromClause) -> tuple[ColumnElement[Any], ...]:
    """The order in which batches run."""
    return table.c.urgent.desc(), table.c.seq


def quiet_until(batch: FromClause) -> ColumnElement[int]:
    """When a ready batch with a quiet period may be taken; this must agree with `claiming.waits_for_quiet`."""
    last, first = _quiet_ends(batch)
    return case((last < first, last), else_=first)


def is_held_back(batch: FromClause, now: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether an available ready batch waits for others of its merge key to stop coming."""
    last, first = _quiet_ends(batch)
    return and_(batch.c.quiet_ms.is_not(None), last > now, first > now)


def _quiet_ends(batch: FromClause) -> tuple[ScalarSelect[int], ScalarSelect[int]]:
    """When the last of a batch's kind has been quiet for its time, and when the first has waited long enough."""
    of_kind = batches.alias("of_kind")
    same = [of_kind.c[name] == batch.c[name] for name in ("session_id", "merge_key", "agent", "context_digest")]
    members = select(of_kind).where(*same, in_state(BatchState.READY, of_kind), of_kind.c.quiet_ms.is_not(None))
    members = members.correlate(batch).limit(1)
    last = members.with_only_columns(of_kind.c.available_at_ms + of_kind.c.quiet_ms)
    first = members.with_only_columns(of_kind.c.available_at_ms + LONGEST_QUIET * of_kind.c.quiet_ms)
    return (
        last.order_by(of_kind.c.seq.desc()).scalar_subquery(),
        first.order_by(of_kind.c.seq).scalar_subquery(),
    )


def head_of_line(column: str, session_id: ColumnElement[str] | str, now: ScalarSelect[int]) -> ScalarSelect[Any]:
    """A column of the batch that decides what runs next in a session: the first ready one that is available."""
    line = batches.alias("line")
    return (
        select(line.c[column])
        .where(
            line.c.session_id == session_id,
            in_state(BatchState.READY, line),
            line.c.available_at_ms <= now,
            ~is_held_back(line, now),
        )
        .order_by(*in_order(line))
        .limit(1)
        .scalar_subquery()
    )


def said_by_user(message: ColumnElement[bytes], dialect: str) -> ColumnElement[bool]:
    """Of a stored message: what `Preview.with_message` counts, told from its bytes and so without fetching them.

    A quotation mark inside a text is escaped, so none of these parts stands in what somebody has said.
    """
    position = func.pg_catalog.position if dialect == "postgresql" else func.instr

    def has(part: bytes) -> ColumnElement[bool]:
        found: ColumnElement[bool] = position(message, part) > 0
        return found

    said = (has(b'"type":"text"'), has(b'"type":"image"'), has(b'"type":"reasoning"'))
    return and_(has(b'],"role":"user"},"v":'), or_(*said), ~has(b'"kind":"runtime"'))
