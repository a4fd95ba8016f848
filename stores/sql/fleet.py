"""Which workers live and what they serve, in SQL."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, Update, bindparam, delete, exists, select, text, tuple_, update

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import UNREADABLE, canonical, decode, encode, parse
from lash_tasks.domain.ids import SessionId, TurnId, WorkerId
from lash_tasks.domain.turns import TurnStatus
from lash_tasks.errors import NotFound, UnsupportedRecordSchemaVersion
from lash_tasks.stores.protocols import Beat, WorkerRecord
from lash_tasks.stores.sql.conditions import in_status, now_of
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.rows import CRASHED
from lash_tasks.stores.sql.tables import agents, turn_cancels, turns, workers

_log = logging.getLogger(__name__)

_SEEN = """
INSERT INTO lash_workers (id, host, pid, queues, version, agents, machine_version, started_at_ms, seen_at_ms)
VALUES (:id, :host, :pid, :queues, :version, :agents, :machine_version, :started_at_ms, {now})
ON CONFLICT (id) DO UPDATE SET queues = excluded.queues, seen_at_ms = excluded.seen_at_ms"""

_REGISTER = """
INSERT INTO lash_agents (name, ref, snapshot, seen_at_ms) VALUES (:name, :ref, :snapshot, {now})
ON CONFLICT (name, ref) DO UPDATE SET seen_at_ms = excluded.seen_at_ms"""

_TURN = tuple_(turns.c.session_id, turns.c.turn_id)


class SqlFleet:
    """`Fleet` on Postgres and SQLite. `worker_ttl_ms` after its last beat a worker is taken for dead."""

    def __init__(self, database: Database, *, worker_ttl_ms: int = 6000) -> None:
        self._database = database
        self._worker_ttl_ms = worker_ttl_ms

    def beat(self, worker: WorkerRecord, driving: Mapping[tuple[SessionId, TurnId], int]) -> Beat:
        row = {
            "id": worker.worker,
            "host": worker.host,
            "pid": worker.pid,
            "queues": canonical(list(worker.queues)).decode(),
            "version": worker.version,
            "agents": canonical(dict(worker.agents)).decode(),
            "machine_version": worker.machine_version,
            "started_at_ms": worker.started_at_ms,
            "now_ms": self._database.now_override(),
        }
        with self._database.transaction() as connection:
            connection.execute(text(_SEEN.format(now=self._database.now_sql)), row)
            held = connection.execute(_HELD, {"worker": worker.worker})
            turns_held = frozenset((SessionId(row.session_id), TurnId(row.turn_id), row.fence) for row in held)
            idle = frozenset(turn for turn in turns_held if turn[:2] not in driving)
            return replace(_news(connection, driving) if driving else Beat(), idle=idle)

    def leave(self, worker: WorkerId, *, crashed: bool = False) -> None:
        with self._database.transaction() as connection:
            connection.execute(delete(workers).where(workers.c.id == worker))
            connection.execute(_held_by(worker).values(holder=CRASHED if crashed else None))

    def workers(self) -> list[WorkerRecord]:
        live = workers.c.seen_at_ms > now_of(self._database) - self._worker_ttl_ms
        query = select(workers, live.label("live")).order_by(workers.c.started_at_ms, workers.c.id)
        with self._database.reading() as connection:
            return [
                WorkerRecord(
                    worker=WorkerId(row.id),
                    host=row.host,
                    pid=row.pid,
                    queues=tuple(parse(row.queues)),
                    version=row.version,
                    started_at_ms=row.started_at_ms,
                    seen_at_ms=row.seen_at_ms,
                    live=row.live,
                    agents=parse(row.agents),
                    machine_version=row.machine_version,
                )
                for row in connection.execute(query)
            ]

    # ------------------------------------------------------------ agents

    def register_agents(self, agents: Sequence[AgentSnapshot]) -> None:
        now = self._database.now_override()
        rows = [
            {"name": agent.name, "ref": agent.ref(), "snapshot": encode(AgentSnapshot, agent), "now_ms": now}
            for agent in sorted(agents, key=lambda agent: agent.name)  # so that two workers lock in one order
        ]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(text(_REGISTER.format(now=self._database.now_sql)), rows)

    def agents(self) -> list[AgentSnapshot]:
        query = select(agents).order_by(agents.c.name, agents.c.seen_at_ms.desc(), agents.c.ref)
        newest: dict[str, AgentSnapshot] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                if row.name in newest:
                    continue
                try:
                    newest[row.name] = _read(row.name, row.ref, row.snapshot)
                except (NotFound, UnsupportedRecordSchemaVersion) as error:
                    _log.warning("a version of an agent is passed over", extra={"problem": error.sentence()})
        return list(newest.values())

    def snapshot(self, name: str, ref: str) -> AgentSnapshot:
        query = select(agents.c.snapshot).where(agents.c.name == name, agents.c.ref == ref)
        with self._database.reading() as connection:
            found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise NotFound("agent snapshot", f"{name}@{ref}")
        return _read(name, ref, found)


def _read(name: str, ref: str, stored: bytes) -> AgentSnapshot:
    try:
        snapshot: AgentSnapshot = decode(AgentSnapshot, stored)
    except UnsupportedRecordSchemaVersion:
        raise
    except UNREADABLE as error:
        raise NotFound("agent snapshot that this release can read", f"{name}@{ref}") from error
    return snapshot


_HELD = select(turns.c.session_id, turns.c.turn_id, turns.c.fence).where(
    in_status(TurnStatus.RUNNING), turns.c.holder == bindparam("worker")
)


def _held_by(worker: WorkerId) -> Update:
    return update(turns).where(in_status(TurnStatus.RUNNING), turns.c.holder == worker)


def _news(connection: Connection, driving: Mapping[tuple[SessionId, TurnId], int]) -> Beat:
    cancel = exists().where(tuple_(turn_cancels.c.session_id, turn_cancels.c.turn_id) == _TURN)
    running = select(turns.c.session_id, turns.c.turn_id, turns.c.fence, cancel.label("cancel")).where(
        in_status(TurnStatus.RUNNING), _TURN.in_(list(driving))
    )
    ours = {
        (SessionId(row.session_id), TurnId(row.turn_id)): row.cancel
        for row in connection.execute(running)
        if row.fence == driving[(row.session_id, row.turn_id)]
    }
    cancelled = (turn for turn, cancel in ours.items() if cancel)
    return Beat(cancels=frozenset(cancelled), foreign=frozenset(driving.keys() - ours.keys()))
