"""The evidence of a run, read through a client once all is quiet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import text as sql

from lash_tasks.client import Client
from lash_tasks.domain.frames import follow_up_turn_id, task_batch_id
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.messages import ToolCallPart, ToolResultPart, text_of
from lash_tasks.domain.sessions import StoredNode
from lash_tasks.errors import StoreUnavailable
from tests.faults.conversation import task_of
from tests.faults.evidence import SWITCHED, Evidence, Recorded, Said, Sent, SessionSeen, Stored, TurnSeen
from tests.faults.witness import stale_writes
from tests.services import wait_until

_STATES = {"consumed": "committed"}
"""A batch's state in the words of a receipt, where they differ."""

_TURNS = """
SELECT session_id, turn_id, turn_index, base_revision, fence, outcome
FROM lash_turns WHERE status = 'committed' ORDER BY session_id, turn_index"""

_RUNNING = "SELECT session_id, turn_id FROM lash_turns WHERE status <> 'committed'"

# A dead letter without its input is one all the same, and so is a fence without its session.
_INPUTS = """
SELECT coalesce(b.session_id, d.session_id) AS session_id, coalesce(b.source_key, b.id, d.batch_id) AS source_key,
  coalesce(b.seq, 0) AS seq, coalesce(b.state, 'dead') AS state, coalesce(b.turn_id, d.turn_id) AS turn_id, d.reason
FROM lash_batches b FULL JOIN lash_dead_letters d ON d.batch_id = b.id"""

_SESSIONS = """
SELECT coalesce(s.id, substr(f.scope, length('session:') + 1)) AS id, coalesce(s.head_revision, 0) AS head_revision,
  coalesce(s.turn_index, 0) AS turn_index, coalesce(f.fence, 0) AS fence
FROM lash_sessions s FULL JOIN lash_fences f ON f.scope = 'session:' || s.id"""

_COUNTED = "SELECT session_id, effect_key FROM lash_usage"


def read_evidence(
    client: Client, sent: Iterable[Sent], asked: Mapping[tuple[str, int], int], tool_runs: Iterable[dict[str, Any]]
) -> Evidence:
    """Everything that there is to check."""
    sessions = _sessions(client)
    ran, never_ran = _tools(tool_runs)
    turns, history = _turns(client, sessions), [said for session in sessions for said in _history(client, session)]
    return Evidence(
        sent=[*sent, *_tasks(turns, history)],
        stored=_stored(client),
        turns=turns,
        running=_pairs(client, _RUNNING),
        history=history,
        sessions=_seen(client),
        journal=_journal(client),
        counted=_pairs(client, _COUNTED),
        stale=stale_writes(client),
        asked=dict(asked),
        ran=ran,
        never_ran=never_ran,
    )


def read_keys(client: Client) -> set[str]:
    """The keys of all inputs that are stored."""
    return {one.key for one in _stored(client)}


def unfinished(client: Client) -> int:
    """How many inputs have no end yet."""
    return _count(client, "lash_batches WHERE state IN ('ready', 'claimed')")


def committed(client: Client) -> int:
    """How many turns are committed."""
    return _count(client, "lash_turns WHERE status = 'committed'")


def _count(client: Client, what: str) -> int:
    """Asks again where the database has just been restarted."""

    def count() -> list[int] | None:
        try:
            with client.stores.database.reading() as connection:
                return [int(connection.execute(sql(f"SELECT count(*) FROM {what}")).scalar_one())]
        except StoreUnavailable:
            return None

    return (wait_until(count, 30, "the database to answer") or [0])[0]


def _sessions(client: Client) -> list[SessionId]:
    return [head.session_id for head in client.stores.sessions.sessions(limit=10_000)]


def _stored(client: Client) -> list[Stored]:
    with client.stores.database.reading() as connection:
        return [
            Stored(
                session=row.session_id,
                key=row.source_key,
                seq=row.seq,
                state=_STATES.get(row.state, row.state),
                turn_id=row.turn_id,
                dead=row.reason,
            )
            for row in connection.execute(sql(_INPUTS))
        ]


def _seen(client: Client) -> list[SessionSeen]:
    with client.stores.database.reading() as connection:
        return [
            SessionSeen(session=row.id, head_revision=row.head_revision, turn_index=row.turn_index, fence=row.fence)
            for row in connection.execute(sql(_SESSIONS))
        ]


def _pairs(client: Client, query: str) -> list[tuple[str, str]]:
    with client.stores.database.reading() as connection:
        return [(first, second) for first, second in connection.execute(sql(query))]


def _turns(client: Client, sessions: Iterable[SessionId]) -> list[TurnSeen]:
    texts = {
        (record.session_id, record.turn_id): record.result.text
        for session in sessions
        for record in client.stores.sessions.turns(session, limit=100_000)
        if record.result is not None
    }
    with client.stores.database.reading() as connection:
        return [
            TurnSeen(
                session=row.session_id,
                turn_id=row.turn_id,
                index=row.turn_index,
                base_revision=row.base_revision,
                fence=row.fence,
                outcome=row.outcome,
                text=texts[(row.session_id, row.turn_id)],
            )
            for row in connection.execute(sql(_TURNS))
        ]


def _history(client: Client, session: SessionId) -> list[Said]:
    """Everything that was said in a session, in all frames and before resets."""
    return [_said(session, stored) for stored in client.stores.graph.graph(session).nodes]


def _tasks(turns: Iterable[TurnSeen], history: Iterable[Said]) -> Iterator[Sent]:
    """The inputs that turns have left for those behind them."""
    texts = {(one.session, one.revision): one.text for one in history if one.role == "user"}
    for turn in turns:
        if turn.outcome == SWITCHED:
            session, turn_id = SessionId(turn.session), TurnId(turn.turn_id)
            yield Sent(
                session=session,
                key=task_batch_id(session, follow_up_turn_id(turn_id)),
                text=task_of(texts.get((session, turn.base_revision + 1), "")),
                follows=turn_id,
            )


def _said(session: SessionId, stored: StoredNode) -> Said:
    message = stored.node.message
    assert message is not None, "these sessions hold messages only"
    named = re.match(r"m(\d+)\.", message.id)
    results = tuple(part.call_id for part in message.parts if isinstance(part, ToolResultPart))
    return Said(
        session=session,
        revision=stored.revision,
        ordinal=stored.ordinal,
        role="result" if results else message.role.value,
        text=text_of(message),
        calls=tuple(part.call_id for part in message.parts if isinstance(part, ToolCallPart)),
        results=results,
        turn_index=int(named[1]) if named else None,
    )


def _journal(client: Client) -> list[Recorded]:
    with client.stores.database.reading() as connection:
        rows = connection.execute(sql("SELECT scope, replay_key, ordinal, fence, state FROM lash_effects")).all()
    found = []
    for row in rows:
        session, _, turn_id = row.scope.removeprefix("session:").rpartition("/")
        found.append(
            Recorded(
                session=session,
                turn_id=turn_id,
                ordinal=row.ordinal,
                fence=row.fence,
                kind="llm_call" if ":llm_call:" in row.replay_key else "other",
                done=row.state == "done",
                key=row.replay_key,
            )
        )
    return found


def _tools(runs: Iterable[dict[str, Any]]) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """How often each call ran, by its text and key; and each text's `charge`."""
    runs = list(runs)
    ran = Counter((run["text"], run["key"]) for run in runs if run["tool"] != "charge")
    return dict(ran), dict(Counter(run["text"] for run in runs if run["tool"] == "charge"))
