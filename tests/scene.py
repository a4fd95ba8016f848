"""Sessions without workers: the stores in one database, a worker moved by hand, and a clock on which things happen."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy import func, select

from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonValue, decode, encode
from lash_tasks.domain.frames import FrameSwitch
from lash_tasks.domain.ids import BatchId, MessageId, NodeId, SessionId, TurnId, WorkerId
from lash_tasks.domain.inputs import QueuedInput, context_digest
from lash_tasks.domain.messages import Message, Role, TextPart
from lash_tasks.domain.sessions import Node
from lash_tasks.domain.turns import (
    AgentFrameSwitch,
    AssembledTurn,
    AssistantOutput,
    ExecutionSummary,
    OutputState,
    StopKind,
    TurnOutcome,
    TurnStatus,
    finished,
    outcome_kind,
    stopped,
)
from lash_tasks.domain.usage import NO_USAGE, UsageEntry
from lash_tasks.errors import LeaseStoreUnavailable
from lash_tasks.observation.listening import WOKEN, Pace, Sources
from lash_tasks.runtime.frame_runs import End, continuation
from lash_tasks.runtime.ingress import Ingress, SendRequest
from lash_tasks.runtime.live_writer import LiveWriter
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.protocols import Committed, LiveBatch, LiveGap, LiveReplay, OpenedTurn, OpenRequest, TurnCommit
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from lash_tasks.stores.sql.frames import SqlFrameStore
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from lash_tasks.stores.sql.turns import SqlTurnStore

on_every_backend = pytest.mark.parametrize("database_url", ["memory", "sqlite", "postgres"], indirect=True)
"""For a test whose scene is otherwise in SQLite in memory: SQLite in a file and Postgres as well."""
SESSION = SessionId("customer-7")
SUPPORT = AgentSnapshot(name="support", model="scripted:small", instructions="Answer briefly.")
ALICE = WorkerId("alice")
MAX_PAYLOAD_BYTES = 1024 * 1024


def url_of_backend(request: pytest.FixtureRequest) -> str:
    """For a fixture `database_url`: what `on_every_backend` asks for, or SQLite in memory."""
    backend = getattr(request, "param", "memory")
    url: str = "sqlite://" if backend == "memory" else request.getfixturevalue(f"migrated_{backend}_url")
    return url


class Timeline(FakeClock):
    """A clock that stands still until somebody waits. What was planned for that time happens meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._planned: list[tuple[int, int, Callable[[], object]]] = []
        self._serial = itertools.count()

    def after(self, seconds: float, happens: Callable[[], object]) -> None:
        """Let `happens` be called `seconds` from now, within somebody's wait."""
        self._planned.append((self.now_ms() + round(seconds * 1000), next(self._serial), happens))

    def wait(self, event: threading.Event, seconds: float) -> bool:
        end_ms = self.now_ms() + (max(1, round(seconds * 1000)) if seconds > 0 else 0)
        while not event.is_set():
            due = min((plan for plan in self._planned if plan[0] <= end_ms), default=None)
            self.advance(((end_ms if due is None else due[0]) - self.now_ms()) / 1000)
            if due is None:
                break
            self._planned.remove(due)
            due[2]()
        return event.is_set()


class SilentDoorbell:
    """A doorbell that remembers who was rung."""

    def __init__(self) -> None:
        self.rung: list[SessionId] = []

    def ring_session(self, session_id: SessionId) -> None:
        self.rung.append(session_id)

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        self.rung.append(session_id)


@dataclass
class Outages:
    """A live stream that is out of reach while `down`."""

    live: LiveReplay
    down: bool = False

    def append(self, activities: Sequence[TurnActivity]) -> None:
        if not self.down:
            self.live.append(activities)

    def read(self, session_id: SessionId, cursor: str | None, wait_seconds: float) -> LiveBatch | LiveGap:
        self._reach()
        found = self.live.read(session_id, cursor, wait_seconds)
        self._reach()
        return found

    def tail(self, session_id: SessionId) -> str:
        self._reach()
        return self.live.tail(session_id)

    def _reach(self) -> None:
        if self.down:
            raise LeaseStoreUnavailable("the live stream cannot be reached")


@dataclass
class Scene:
    """One database, and short ways to do what clients and workers do."""

    database: Database
    clock: FakeClock
    pace: Pace = WOKEN
    doorbell: SilentDoorbell = field(default_factory=SilentDoorbell)

    def __post_init__(self) -> None:
        self.queue = SqlInputQueue(self.database)
        self.turns = SqlTurnStore(self.database, worker_ttl_ms=6000)
        self.sessions = SqlSessionStore(self.database)
        self.frames = SqlFrameStore(self.database)
        self.live = Outages(open_memory_stores(clock=self.clock).live)
        self.ingress = Ingress(
            queue=self.queue,
            turns=self.turns,
            sessions=self.sessions,
            registry=SqlSessionRegistry(self.database),
            doorbell=self.doorbell,
            live=LiveWriter(self.live),
            clock=self.clock,
            new_id=map("input-{}".format, itertools.count(1)).__next__,
            max_payload_bytes=MAX_PAYLOAD_BYTES,
        )
        SqlFleet(self.database).register_agents([SUPPORT])

    @property
    def sources(self) -> Sources:
        return Sources(queue=self.queue, sessions=self.sessions, live=self.live, clock=self.clock, pace=self.pace)

    # ------------------------------------------------------------ a client

    def send(self, text: str = "hello", **fields: object) -> BatchId:
        values = {"session_id": SESSION, "agent": SUPPORT.name, "text": text}
        return self.ingress.accept(SendRequest.parse({**values, **fields})).id

    # ------------------------------------------------------------ a worker

    def open(self, session_id: SessionId = SESSION) -> OpenedTurn:
        """Open the session's next turn, or again the one that nobody has ended."""
        opened = self.turns.open(
            OpenRequest(session_id=session_id, worker=ALICE, agents={SUPPORT.name: SUPPORT.ref()}, machine_version=1)
        )
        assert isinstance(opened, OpenedTurn), opened
        return opened

    def die(self, opened: OpenedTurn) -> None:
        """The worker dies in the turn; somebody else may open it."""
        assert self.turns.give_up(opened.intent.session_id, opened.intent.turn_id, opened.fence, crashed=True)

    def live_event(self, opened: OpenedTurn, kind: ActivityType, **data: JsonValue) -> None:
        intent = opened.intent
        activity = TurnActivity(intent.session_id, intent.turn_id, opened.fence, opened.attempt, 1, kind, data)
        self.live.append([activity])

    def start(self, session_id: SessionId = SESSION) -> OpenedTurn:
        """Open a turn and say so."""
        opened = self.open(session_id)
        self.live_event(opened, ActivityType.TURN_STARTED, resumed=opened.resumed, turn_index=opened.intent.turn_index)
        return opened

    def says(self, opened: OpenedTurn, text: str) -> None:
        self.live_event(opened, ActivityType.ASSISTANT_PROSE_DELTA, text=text)

    def commit(
        self,
        opened: OpenedTurn,
        text: str = "answer",
        *,
        dead_reason: str | None = None,
        usage: tuple[UsageEntry, ...] = (),
        switch: FrameSwitch | None = None,
    ) -> None:
        """Commit the turn and tell nobody."""
        intent = opened.intent
        first_input: QueuedInput = decode(QueuedInput, opened.batches[0].payload)
        onward = continuation(self.frames, opened, switch, End(2, None), first_input)
        outcome: TurnOutcome = finished(text) if dead_reason is None else stopped(StopKind.RUNTIME_ERROR)
        if switch is not None:
            outcome = AgentFrameSwitch(switch.frame_id, switch.task)
        turn = AssembledTurn(
            session_id=intent.session_id,
            turn_id=intent.turn_id,
            turn_index=intent.turn_index,
            status=TurnStatus.COMMITTED,
            outcome=outcome,
            assistant_output=AssistantOutput(text, text, OutputState.USABLE),
            execution=ExecutionSummary(),
            token_usage=NO_USAGE,
            tool_calls=(),
            errors=(),
            attempt=opened.attempt,
        )
        message = Message(MessageId(f"m{intent.turn_index}.1"), Role.ASSISTANT, (TextPart(text),))
        committed = self.turns.commit(
            TurnCommit(
                session_id=intent.session_id,
                turn_id=intent.turn_id,
                fence=opened.fence,
                turn_index=intent.turn_index,
                base_revision=intent.base_revision,
                batch_ids=intent.batch_ids,
                refuse_if_joinable=False,
                agent=intent.agent,
                context_digest=context_digest(first_input.context),
                nodes=(Node(NodeId(message.id), None, message, opened.frame_id),),
                usage=usage,
                stamp="stamp",
                outcome=outcome_kind(outcome),
                result=encode(AssembledTurn, turn),
                dead_reason=dead_reason,
                frame=None if onward is None else onward.frame,
                follow_up=None if onward is None else onward.follow_up,
            )
        )
        assert isinstance(committed, Committed), committed

    def announce(self, opened: OpenedTurn) -> None:
        self.live_event(opened, ActivityType.COMMITTED, turn_index=opened.intent.turn_index)

    def answer(self, text: str = "answer", session_id: SessionId = SESSION) -> TurnId:
        """A whole turn: opened, streamed, committed, announced."""
        opened = self.start(session_id)
        self.says(opened, text)
        self.commit(opened, text)
        self.announce(opened)
        return opened.intent.turn_id

    # ------------------------------------------------------------ what is stored

    def stored(self) -> dict[str, int]:
        """How many rows there are that a client can bring about."""
        with self.database.reading() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (tables.batches, tables.blobs, tables.sessions, tables.turn_cancels)
            }
