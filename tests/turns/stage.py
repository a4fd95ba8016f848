"""One database and as many worker processes as a test wants, each an object that can be dropped as if it had died."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from lash_tasks.clock import Clock
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.messages import Message, ToolResultPart
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream
from lash_tasks.providers.scripted import RULES, Rule, ScriptedProvider, last_user_text
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores, open_stores
from lash_tasks.stores.sql import tables
from lash_tasks.tools.agents import Agent
from lash_tasks.wiring import Deps, WorkerParts, open_worker

SESSION = SessionId("customer-7")
AGENT = "support"
MAX_OPENINGS = 50


class SimulatedDeath(BaseException):
    """The process is gone: nothing of it runs any more."""


class Model:
    """A scripted model that counts what it is asked; `before` runs inside every call."""

    def __init__(self, rule: Rule = RULES["echo"], before: Callable[[ModelCall, Interrupt], object] | None = None):
        self._model = ScriptedProvider({"test": rule})
        self._before = before
        self._lock = threading.Lock()
        self.asked: Counter[tuple[str, bool]] = Counter()
        self.requests: list[ModelRequest] = []

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        after_tools = any(isinstance(part, ToolResultPart) for part in call.request.messages[-1].parts)
        with self._lock:
            self.asked[last_user_text(call.request), after_tools] += 1
            self.requests.append(call.request)
        if self._before is not None:
            self._before(call, interrupt)
        return self._model.complete(call, stream, interrupt)

    def close(self) -> None:
        self._model.close()


class Rings:
    """A doorbell that remembers for whom it rang."""

    def __init__(self) -> None:
        self.sessions: list[SessionId] = []

    def ring_session(self, session_id: SessionId) -> None:
        self.sessions.append(session_id)

    def ring_turn(self, session_id: SessionId, turn_id: TurnId) -> None:
        self.sessions.append(session_id)


class DieAt:
    """Dies at the `count`-th passing of a crash point, once; counts all passings."""

    def __init__(self, point: CrashPoint | None = None, count: int = 1) -> None:
        self._point = point
        self._left = count
        self._lock = threading.Lock()
        self.passed: Counter[CrashPoint] = Counter()

    def __call__(self, point: CrashPoint) -> None:
        with self._lock:
            self.passed[point] += 1
            if point is self._point:
                self._left -= 1
                if self._left == 0:
                    raise SimulatedDeath(point)


@dataclass
class Stage:
    """Workers over one database. Each has its own leases, as if Redis had lost the dead one's by then."""

    settings: Settings
    clock: Clock
    agents: list[Agent]
    model: Model
    deps: Deps | None = None
    rings: Rings = field(default_factory=Rings)

    @contextmanager
    def worker(self, reached: Callable[[CrashPoint], None] = nothing_happens) -> Iterator[WorkerParts]:
        """A worker process without its threads. A death inside is the end of it and no error of the test."""
        parts = open_worker(
            self.settings,
            agents={agent.name: agent for agent in self.agents},
            providers={"test": self.model},
            deps=self.deps,
            doorbell=self.rings,
            queues=(),
            stores=self.stores(),
            clock=self.clock,
            reached=reached,
        )
        parts.stores.fleet.register_agents([agent.snapshot() for agent in self.agents])
        try:
            yield parts
        except SimulatedDeath:
            pass
        finally:
            # Not `parts.close()`: a dead process signs nothing off.
            parts.running.services.rounds.close()
            parts.stores.close()

    def stores(self) -> Stores:
        return open_stores(self.settings, allow_memory_leases=True)

    def send(self, text: str, **fields: Any) -> str:
        """Send to SESSION; the input's id."""
        with self.worker() as parts:
            from lash_tasks.runtime.ingress import SendRequest

            request = SendRequest.parse({"session_id": SESSION, "agent": AGENT, "text": text, **fields})
            return parts.ingress.accept(request).id

    def run_all(self, reached: Callable[[CrashPoint], None] = nothing_happens) -> None:
        """New workers, one after another, until nothing is left to do."""
        for _ in range(MAX_OPENINGS):
            with self.worker(reached) as parts:
                while parts.running.sessions.run(SESSION) is not RunVerdict.NOTHING:
                    pass
                return
        raise AssertionError("the session never came to rest")

    # ------------------------------------------------------------ what is left

    def transcript(self) -> list[Any]:
        """The session's messages as JSON."""
        with self._reading() as stores:
            return [to_json(Message, stored.node.message) for stored in stores.sessions.history(SESSION)]

    def turns(self) -> list[Any]:
        with self._reading() as stores:
            return stores.sessions.turns(SESSION, limit=1000)

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has that a turn writes to."""
        written = (tables.sessions, tables.nodes, tables.batches, tables.turns, tables.effects, tables.usage)
        with self._reading() as stores, stores.database.reading() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in written
            }

    @contextmanager
    def _reading(self) -> Iterator[Stores]:
        stores = self.stores()
        try:
            yield stores
        finally:
            stores.close()
