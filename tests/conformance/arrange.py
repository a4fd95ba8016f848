"""Rows and requests for the suites of the SQL stores, in the words of the contracts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, insert, select, update

from lash_tasks.clock import FakeClock
from lash_tasks.domain.codec import digest, encode
from lash_tasks.domain.ids import BatchId, MessageId, NodeId, ReplayKey, SessionId, WorkerId, message_id
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.journal import EffectKind, EffectState, Envelope, JournalRow
from lash_tasks.domain.messages import Message, Role, TextPart
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.sessions import Node
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
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.turns import SqlTurnStore

SESSION = SessionId("customer-7")
ALICE = WorkerId("alice")
BOB = WorkerId("bob")
SUPPORT = {"support": "ref-1"}
NO_CONTEXT = digest(None)
WORKER_TTL_MS = 6000
MACHINE_VERSION = 3
ENVELOPE = Envelope(EffectKind.LLM_CALL, {"model": "scripted:echo"}).to_bytes()


@dataclass
class Scene:
    """A database with a TurnStore, and short ways to bring it into the state that a test needs."""

    database: Database
    clock: FakeClock
    store: SqlTurnStore = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self.store = SqlTurnStore(self.database, worker_ttl_ms=WORKER_TTL_MS)

    # ------------------------------------------------------------ what senders and workers do

    def send(
        self,
        batch_id: str | None = None,
        *,
        session_id: SessionId = SESSION,
        agent: str = "support",
        text: str = "hello",
        early: bool = False,
        exclusive: bool = True,
        merge_key: str | None = None,
        context: str = "",
        available_at_ms: int = 0,
    ) -> BatchId:
        self._count += 1
        batch_id = batch_id or f"b{self._count}"
        row = {
            "id": batch_id,
            "session_id": session_id,
            "agent": agent,
            "input_digest": digest(text),
            "context_digest": digest(context or None),
            "early": early,
            "exclusive": exclusive,
            "merge_key": merge_key,
            "available_at_ms": available_at_ms,
            "enqueued_at_ms": self.clock.now_ms(),
            "payload": encode(QueuedInput, QueuedInput(agent, (TextPart(text),))),
        }
        with self.database.transaction() as connection:
            connection.execute(insert(tables.batches).values(row))
        return BatchId(batch_id)

    def inject(self, batch_id: str | None = None, **changed: Any) -> BatchId:
        """An input that may join a running turn."""
        values: dict[str, Any] = {"early": True, "exclusive": False, "merge_key": "inject"}
        return self.send(batch_id, **(values | changed))

    def beat(self, worker: WorkerId, ago_ms: int = 0) -> None:
        """`worker` was seen `ago_ms` ago."""
        seen_at_ms = self.clock.now_ms() - ago_ms
        row = {"id": worker, "host": "h", "pid": 1, "queues": "[]", "version": "0", "started_at_ms": 0}
        with self.database.transaction() as connection:
            known = update(tables.workers).where(tables.workers.c.id == worker).values(seen_at_ms=seen_at_ms)
            if connection.execute(known).rowcount == 0:
                connection.execute(insert(tables.workers).values(**row, seen_at_ms=seen_at_ms))

    def bury(self, session_id: SessionId = SESSION) -> None:
        """Leave the tombstone of a deleted session."""
        with self.database.transaction() as connection:
            connection.execute(insert(tables.sessions).values(id=session_id, created_at_ms=0, deleted_at_ms=1))

    # ------------------------------------------------------------ the verbs

    def try_open(
        self,
        worker: WorkerId = ALICE,
        *,
        session_id: SessionId = SESSION,
        agents: Mapping[str, str] = SUPPORT,
        refs: Collection[str] = (),
        machine_version: int = MACHINE_VERSION,
        known_revision: int = 0,
    ) -> OpenedTurn | NotOpened:
        return self.store.open(
            OpenRequest(
                session_id=session_id,
                worker=worker,
                agents=agents,
                machine_version=machine_version,
                refs=frozenset(refs),
                known_revision=known_revision,
            )
        )

    def open(self, worker: WorkerId = ALICE, **changed: Any) -> OpenedTurn:
        opened = self.try_open(worker, **changed)
        assert isinstance(opened, OpenedTurn), opened
        return opened

    def record(self, turn: OpenedTurn, key: str = "call-1", **changed: Any) -> str:
        [reply] = self.store.record([journal_row(turn, key, **changed)])
        return reply.verdict

    def checkpoint(
        self, turn: OpenedTurn, key: str = "checkpoint-1", **changed: Any
    ) -> CheckpointTaken | CheckpointRefused:
        values: dict[str, Any] = {
            "session_id": turn.intent.session_id,
            "turn_id": turn.intent.turn_id,
            "fence": turn.fence,
            "agent": turn.intent.agent,
            "context_digest": NO_CONTEXT,
            "row": journal_row(turn, key, outcome=None, kind=EffectKind.CHECKPOINT),
        }
        return self.store.checkpoint(CheckpointRequest(**(values | changed)))

    def commit(self, turn: OpenedTurn, **changed: Any) -> Committed | CommitRefused:
        return self.store.commit(turn_commit(turn, **changed))

    def committed(self, turn: OpenedTurn, **changed: Any) -> Committed:
        committed = self.commit(turn, **changed)
        assert isinstance(committed, Committed), committed
        return committed

    # ------------------------------------------------------------ what stands in the database

    def batch(self, batch_id: str) -> tuple[BatchState, str | None]:
        """State and turn of a batch."""
        query = select(tables.batches.c.state, tables.batches.c.turn_id).where(tables.batches.c.id == batch_id)
        with self.database.reading() as connection:
            state, turn_id = connection.execute(query).one()
        return BatchState(state), turn_id

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.database.reading() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def count(self, table: Any) -> int:
        with self.database.reading() as connection:
            counted: int = connection.execute(select(func.count()).select_from(table)).scalar_one()
        return counted

    def fence(self, session_id: SessionId = SESSION) -> int:
        """The session's fence; without a row it is 0."""
        scope = f"session:{session_id}"
        return next((row["fence"] for row in self.rows(tables.fences) if row["scope"] == scope), 0)

    def everything(self) -> dict[str, list[str]]:
        """All rows of all tables. A fence of 0 says nothing and is left out."""
        return {
            table.name: sorted(str(row) for row in self.rows(table) if row.get("fence") != 0)
            for table in tables.metadata.sorted_tables
        }


def journal_row(
    turn: OpenedTurn,
    key: str = "call-1",
    *,
    ordinal: int = 0,
    fence: int | None = None,
    state: EffectState = EffectState.DONE,
    outcome: bytes | None = b"answer",
    envelope: bytes = ENVELOPE,
    kind: EffectKind | None = None,
) -> JournalRow:
    return JournalRow(
        session_id=turn.intent.session_id,
        turn_id=turn.intent.turn_id,
        replay_key=ReplayKey(key),
        ordinal=ordinal,
        fence=turn.fence if fence is None else fence,
        state=state,
        envelope=envelope if kind is None else Envelope(kind, {}).to_bytes(),
        outcome=None if state is EffectState.BEGUN else outcome,
    )


def begun(turn: OpenedTurn, key: str = "call-1", **changed: Any) -> JournalRow:
    return journal_row(turn, key, state=EffectState.BEGUN, **changed)


def node(number: int, text: str = "hi", parent: int | None = None) -> Node:
    message = Message(MessageId(f"m{number}"), Role.USER, (TextPart(text),))
    return Node(NodeId(f"m{number}"), None if parent is None else NodeId(f"m{parent}"), message)


def made(turn: OpenedTurn, ordinal: int, text: str = "hi") -> Node:
    """A node with an id that only this turn gives, as nearly every node has."""
    name = message_id(turn.intent.turn_index, ordinal)
    parent = NodeId(message_id(turn.intent.turn_index, ordinal - 1)) if ordinal else None
    return Node(NodeId(name), parent, Message(name, Role.USER, (TextPart(text),)))


def turn_commit(turn: OpenedTurn, **changed: Any) -> TurnCommit:
    intent = turn.intent
    values: dict[str, Any] = {
        "session_id": intent.session_id,
        "turn_id": intent.turn_id,
        "fence": turn.fence,
        "turn_index": intent.turn_index,
        "base_revision": intent.base_revision,
        "batch_ids": intent.batch_ids,
        "refuse_if_joinable": False,
        "agent": intent.agent,
        "context_digest": NO_CONTEXT,
        "nodes": (),
        "usage": (),
        "stamp": "stamp-1",
        "outcome": "finished",
        "result": b"result",
    }
    return TurnCommit(**(values | changed))
