"""One database and as many worker processes as a test wants, each an object that can be dropped as if it had died."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Table, func, select, text

from lash_tasks.clock import Clock, SystemClock
from lash_tasks.domain.codec import JsonObject, digest, encode, to_json
from lash_tasks.domain.ids import BatchId, SessionId, TurnId, WorkerId
from lash_tasks.domain.inputs import QueuedInput, context_digest
from lash_tasks.domain.messages import Message, TextPart, unanswered_calls
from lash_tasks.domain.queue import BatchDraft, BatchState
from lash_tasks.domain.turns import AssembledTurn, TurnRecord, TurnStatus
from lash_tasks.ports import Provider
from lash_tasks.providers.named import NamedProvider
from lash_tasks.providers.registry import ProviderRegistry
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.ingress import CancelAnswer, CancelRequest, Ingress, SendRequest
from lash_tasks.runtime.keeper import WorkerBeat
from lash_tasks.runtime.phases import PhaseProbe
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores, open_stores
from lash_tasks.stores.memory import MemoryStores
from lash_tasks.stores.protocols import WorkerRecord
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.calling import OpenDeps
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.dispatch import ToolDispatcher
from lash_tasks.wiring import WorkerParts, new_id, open_ingress, open_worker
from tests.turns.models import Model

SESSION = SessionId("customer-7")
AGENT = "support"
MAX_OPENINGS = 50

Reached = Callable[[CrashPoint], None]
Wrap = Callable[[Stores], Stores]


class SimulatedDeath(BaseException):
    """The process is gone: nothing of it runs any more."""


class Rings:
    """A doorbell that remembers for whom it rang."""

    def __init__(self) -> None:
        self.sessions: list[SessionId] = []
        self.turns: list[TurnId] = []

    def ring_session(self, session_id: SessionId) -> None:
        self.sessions.append(session_id)

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        self.sessions.append(session_id)
        self.turns.append(turn_id)


class DieAt:
    """Dies at the `count`-th passing of a crash point, once and with all its threads; counts all passings."""

    def __init__(self, point: CrashPoint | None = None, count: int = 1) -> None:
        self._point = point
        self._left = count
        self._lock = threading.Lock()
        self._dead = False
        self.passed: Counter[CrashPoint] = Counter()

    def live_again(self) -> None:
        """Another process takes the place of the dead one."""
        self._dead = False

    def __call__(self, point: CrashPoint) -> None:
        with self._lock:
            self.passed[point] += 1
            if point is self._point:
                self._left -= 1
                self._dead |= self._left == 0
            if self._dead:
                raise SimulatedDeath(point)


class Death:
    """A process that dies when it first passes `point` while `when()` holds; nothing of it passes any point after that.

    One object is one process. `died` tells functions that hang in the dead process to return.
    """

    def __init__(self, point: CrashPoint, when: Callable[[], object] = lambda: True) -> None:
        self._point = point
        self._when = when
        self._lock = threading.Lock()
        self.died = threading.Event()

    def __call__(self, point: CrashPoint) -> None:
        with self._lock:
            if not self.died.is_set() and point is self._point and self._when():
                self.died.set()
        if self.died.is_set():
            raise SimulatedDeath(point)


def agent(*tools: Tool[..., object], **fields: Any) -> Agent:
    """The agent that `Stage.send` sends to."""
    return Agent(**{"name": AGENT, "model": "test:test", "instructions": "Answer.", "tools": tools, **fields})


def emptied(settings: Settings) -> Settings:
    """The settings, with their migrated database emptied."""
    database = Database.open(settings.require_database_url(), options=settings.database_options)
    with database.transaction() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(table.delete())  # on a few rows much quicker than TRUNCATE
    database.close()
    return settings


@dataclass(kw_only=True)
class Stage:
    """Workers over one database. Each has its own leases, as if Redis had lost the dead one's, unless they share.

    A context manager, which closes what it reads with.
    """

    settings: Settings
    agents: list[Agent] = field(default_factory=lambda: [agent()])
    model: Provider = field(default_factory=Model)
    providers: dict[str, NamedProvider] = field(default_factory=dict)
    """Beside `test`, which is the model."""
    clock: Clock = field(default_factory=SystemClock)
    now_ms: Callable[[], int] | None = None
    """The database's clock, if it is not its own."""
    shared: MemoryStores | None = None
    """Leases, slots and live events of all workers, in place of Redis."""
    deps: OpenDeps | None = None
    probe: PhaseProbe | None = None
    rings: Rings = field(default_factory=Rings)
    _beats: dict[WorkerId, WorkerBeat] = field(default_factory=dict)
    _reader: Stores = field(init=False)

    def __post_init__(self) -> None:
        self._reader = self.stores()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    @contextmanager
    def worker(self, reached: Reached = nothing_happens, wrap: Wrap | None = None) -> Iterator[WorkerParts]:
        """A worker process without its threads. A death inside is the end of it and no error of the test."""
        stores = self.stores()
        if isinstance(reached, DieAt):
            reached.live_again()
        parts = open_worker(
            self.settings,
            agents={one.name: one for one in self.agents},
            providers={"test": self.model, **self.providers},
            deps=self.deps,
            doorbell=self.rings,
            queues=(),
            stores=wrap(stores) if wrap else stores,
            clock=self.clock,
            reached=reached,
            probe=self.probe,
        )
        stores.fleet.register_agents([one.snapshot() for one in self.agents])
        try:
            yield parts
        except SimulatedDeath:
            pass
        finally:
            # Not `parts.close()`: a dead process signs nothing off.
            services = parts.running.services
            services.rounds.close()
            assert isinstance(services.tools, ToolDispatcher)
            services.tools.close()
            assert isinstance(services.providers, ProviderRegistry)
            services.providers.close()
            stores.close()

    def stores(self) -> Stores:
        stores = open_stores(self.settings, allow_memory_leases=True, now_ms=self.now_ms)
        if self.shared is None:
            return stores
        return replace(stores, leases=self.shared.leases, slots=self.shared.slots, live=self.shared.live)

    def run(self, reached: Reached = nothing_happens, wrap: Wrap | None = None) -> RunVerdict | None:
        """One doorbell, answered by a new worker; None if it died of it."""
        verdicts: list[RunVerdict] = []
        with self.worker(reached, wrap) as parts:
            verdicts.append(parts.running.sessions.run(SESSION))
        return verdicts[0] if verdicts else None

    def run_all(self, reached: Reached = nothing_happens, wrap: Wrap | None = None) -> None:
        """New workers, one after another, until nothing is left to do."""
        for _ in range(MAX_OPENINGS):
            with self.worker(reached, wrap) as parts:
                while parts.running.sessions.run(SESSION) is not RunVerdict.NOTHING:
                    pass
                return
        raise AssertionError("the session never came to rest")

    def beat(self, parts: WorkerParts) -> None:
        """The worker's sign of life, and what it learns by it."""
        worker, now_ms = parts.running.worker, self.clock.now_ms()
        if worker.id not in self._beats:
            record = WorkerRecord(
                worker=worker.id,
                host="here",
                pid=1,
                queues=(),
                version="0",
                started_at_ms=now_ms,
                seen_at_ms=now_ms,
                live=True,
            )
            self._beats[worker.id] = WorkerBeat(worker, parts.stores.fleet, parts.stores.turns, record)
        self._beats[worker.id].beat()

    # ------------------------------------------------------------ what comes in

    @contextmanager
    def ingress(self) -> Iterator[Ingress]:
        with self.reading() as stores:
            stores.fleet.register_agents([one.snapshot() for one in self.agents])
            yield open_ingress(self.settings, stores, self.rings, self.clock)

    def send(self, text: str | None, **fields: Any) -> BatchId:
        """Send to SESSION; the input's id."""
        request = SendRequest.parse({"session_id": SESSION, "agent": AGENT, "text": text, **fields})
        with self.ingress() as ingress:
            return ingress.accept(request).id

    def inject(self, text: str, *, name: str = AGENT, context: JsonObject | None = None, **fields: Any) -> BatchId:
        """Input that may join the running turn."""
        queued = QueuedInput(name, (TextPart(text),), context)
        payload = encode(QueuedInput, queued)
        draft = BatchDraft(
            id=BatchId(new_id()),
            session_id=SESSION,
            agent=name,
            payload=payload,
            input_digest=digest(text),
            context_digest=context_digest(context),
            early=True,
        )
        with self.reading() as stores:
            stores.fleet.register_agents([one.snapshot() for one in self.agents])
            return stores.queue.enqueue(replace(draft, **fields)).id

    def cancel(self) -> CancelAnswer:
        """Ask the running turn to stop."""
        turn_id = next(turn.turn_id for turn in self.turns() if turn.status is TurnStatus.RUNNING)
        with self.ingress() as ingress:
            return ingress.cancel(CancelRequest.parse({"session_id": SESSION, "turn_id": turn_id}))

    def answer(self, text: str | None, **fields: Any) -> AssembledTurn:
        """Send and run; what the turn came to."""
        self.send(text, **fields)
        self.run_all()
        return self.last()

    # ------------------------------------------------------------ what is left

    def messages(self) -> list[Message]:
        with self.reading() as stores:
            history = stores.sessions.history(SESSION)
            return [stored.node.message for stored in history if stored.node.message is not None]

    def transcript(self) -> list[Any]:
        """The session's messages as JSON."""
        return [to_json(Message, message) for message in self.messages()]

    def turns(self) -> list[TurnRecord]:
        with self.reading() as stores:
            return stores.sessions.turns(SESSION, limit=1000)

    def results(self) -> list[AssembledTurn]:
        """What the committed turns came to."""
        return [turn.result for turn in self.turns() if turn.result is not None]

    def last(self) -> AssembledTurn:
        return self.results()[-1]

    def states(self) -> dict[BatchId, BatchState]:
        """The inputs and what became of them."""
        return {BatchId(row["id"]): BatchState(row["state"]) for row in self.rows(tables.batches)}

    def assert_usable(self) -> None:
        """The session answers, and what it sends to a model holds no call without its result."""
        before = len(self.results())
        turn = self.answer("and now?")
        assert (turn.ok, turn.text) == (True, "You said: and now?")
        assert len(self.results()) == before + 1
        assert unanswered_calls(tuple(self.messages())) == ()
        assert set(self.states().values()) <= {BatchState.CONSUMED, BatchState.DEAD, BatchState.CANCELLED}

    def rows(self, table: Table) -> list[Mapping[str, Any]]:
        with self.reading() as stores, stores.database.reading() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has that a turn writes to."""
        written = (tables.sessions, tables.nodes, tables.batches, tables.turns, tables.effects, tables.usage)
        with self.reading() as stores, stores.database.reading() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in written
            }

    def execute(self, statement: str, **parameters: object) -> int:
        """Change rows behind the runtime's back; how many."""
        with self.reading() as stores, stores.database.transaction() as connection:
            return connection.execute(text(statement), parameters).rowcount

    @contextmanager
    def reading(self) -> Iterator[Stores]:
        """Stores that belong to no worker."""
        yield self._reader
