"""Whoever does the harm in a run under faults, and keeps three workers and a sender going all the same."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redis
from celery.signals import after_task_publish
from sqlalchemy import text as sql

from lash_tasks.celery import create_celery
from lash_tasks.client import Client
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import CeleryDoorbell
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import StoreUnavailable
from lash_tasks.queues import Queue
from tests.faults.cluster import START_SECONDS, Cluster, WorkerProcess
from tests.faults.schedule import Fault, FaultKind
from tests.faults.traffic import session_name
from tests.services import PrivatePostgres, PrivateRedis, wait_until

CONCURRENCY = 8
RINGS, TIMES = 30, 3
"""How many sessions are rung for at once, and how often each."""
DROPPED = 2
"""How many messages vanish, one behind the other; at least one."""
PATIENCE_SECONDS = 10.0
"""How long it is tried to do what needs the broker, and messages in it."""
LONGEST_OUTAGE = 1.5
HELD_BY = "SELECT session_id, turn_id FROM lash_turns WHERE status = 'running' AND holder LIKE :holder"


@dataclass(slots=True)
class Loss:
    """The turns that a worker had when it was killed or stopped, and the workers that were up beside it."""

    at_ms: int
    worker: str
    turns: list[tuple[str, str]]
    others: frozenset[str] = frozenset()


@dataclass
class Adversary:
    """The harm, and the processes that it is done to."""

    cluster: Cluster
    postgres: PrivatePostgres
    redis: PrivateRedis
    sender_command: list[str]
    sessions: int
    workers: int
    zombie_seconds: float
    done: Counter[FaultKind] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)
    outages: list[int] = field(default_factory=list)
    """When a server was restarted."""
    doubled: int = 0
    """Messages that were sent beside those of the application."""
    dropped: int = 0
    """Messages that no worker has seen."""
    ended_alone: list[str] = field(default_factory=list)
    """Workers that ended without our doing."""

    def __post_init__(self) -> None:
        self._clock = SystemClock()
        self._never = threading.Event()
        self._client: Client = self.cluster.client()
        self._app = create_celery("adversary", self.redis.url, only_sends=True)
        self._doorbell = CeleryDoorbell(self._app, self._clock)
        self._fleet: list[WorkerProcess] = []
        self._started = 0
        self._sender: subprocess.Popen[bytes] | None = None
        self._stopped: dict[WorkerProcess, float] = {}
        """Zombies, and when each goes on."""

    # ------------------------------------------------------------ the processes

    def __enter__(self) -> Self:
        after_task_publish.connect(self._count_published)
        self.revive()
        wait_until(lambda: len(self._ready()) == self.workers, START_SECONDS, "the workers to be ready")
        self.start_sender()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        after_task_publish.disconnect(self._count_published)
        self._kill_sender()
        for worker in self._fleet:
            worker.kill()
        self._client.close()
        self._app.close()

    def revive(self) -> None:
        """Start a worker in the place of each that is gone, and let zombies go on whose time has come."""
        for worker in [worker for worker in self._fleet if not worker.running]:
            self._fleet.remove(worker)
            self._stopped.pop(worker, None)
            self.ended_alone.append(worker.name)
            self._note("ended alone", worker=worker.name)
        while len(self._fleet) < self.workers:
            self._started += 1
            self._fleet.append(self.cluster.start_worker(f"w{self._started}", concurrency=CONCURRENCY))
            self._note("started", worker=self._fleet[-1].name, pid=self._fleet[-1].pid)
        for worker, until in list(self._stopped.items()):
            if self._clock.monotonic() >= until:
                self.done[FaultKind.ZOMBIE] += psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
                worker.signal(signal.SIGCONT)
                del self._stopped[worker]
                self._note("woken", worker=worker.name)
        if self._sender is not None and self._sender.poll() is not None:
            self._refuse_end_of_sender(self._sender)

    def start_sender(self) -> None:
        with self._sender_errors.open("ab") as errors:
            self._sender = subprocess.Popen(
                self.sender_command, env=self.cluster.environment, stdin=subprocess.DEVNULL, stderr=errors
            )

    def wait_for_sender(self) -> None:
        """Until it has ended by itself, which it does when it is told to stop."""
        sender, self._sender = self._sender, None
        while sender is not None and sender.poll() is None:
            self.rest(0.1)
        if sender is not None and sender.returncode != 0:
            self._refuse_end_of_sender(sender)

    def _refuse_end_of_sender(self, sender: subprocess.Popen[bytes]) -> None:
        """Whatever it has met that it does not expect, a client would have met."""
        errors = self._sender_errors.read_text(encoding="utf-8", errors="replace")
        raise AssertionError(f"the sender ended by itself with {sender.returncode}:\n{errors[-4000:]}")

    @property
    def _sender_errors(self) -> Path:
        return self.cluster.directory / "sender.err"

    def _kill_sender(self) -> bool:
        sender, self._sender = self._sender, None
        if sender is None:
            return False
        sender.kill()
        return sender.wait() == -signal.SIGKILL

    def _ready(self) -> list[WorkerProcess]:
        return [worker for worker in self._fleet if worker.running and worker not in self._stopped and worker.ready]

    def rest(self, seconds: float) -> None:
        """Let time pass, and the fleet be kept up."""
        until = self._clock.monotonic() + seconds
        while True:
            self.revive()
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            self._clock.wait(self._never, min(left, 0.05))

    def wake_all(self) -> None:
        """Let every zombie go on."""
        while self._stopped:
            self.rest(0.1)

    # ------------------------------------------------------------ the harm

    def inflict(self, fault: Fault) -> None:
        """Do it, and count it if it was done. A zombie counts when it wakes."""
        inflictions: dict[FaultKind, Callable[[float], bool]] = {
            FaultKind.KILL: self._kill,
            FaultKind.ZOMBIE: self._stop,
            FaultKind.FLUSH: self._flush,
            FaultKind.REDIS_RESTART: lambda chance: self._restart(self.redis, signal.SIGKILL, chance),
            FaultKind.POSTGRES_CRASH: lambda chance: self._restart(self.postgres, self.postgres.IMMEDIATE, chance),
            FaultKind.POSTGRES_RESTART: lambda chance: self._restart(self.postgres, self.postgres.stop_signal, chance),
            FaultKind.DOUBLE_RINGS: self._double_rings,
            FaultKind.DROP_RINGS: self._drop_rings,
            FaultKind.KILL_SENDER: self._replace_sender,
        }
        self._note(fault.kind.value)
        was_done = inflictions[fault.kind](fault.chance)  # meanwhile a zombie may wake and be counted
        self.done[fault.kind] += was_done

    def _note(self, what: str, **more: object) -> None:
        """A line for whoever wonders later what was going on."""
        line = {"at_ms": self._clock.now_ms(), "what": what, **more}
        with (self.cluster.directory / "faults.log").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _victim(self, chance: float) -> WorkerProcess:
        """One of the workers that are up; rather one that has turns than one that has none.

        Three times in four another one is up as well. A turn that is lost five times with nothing recorded in between
        is a dead letter, as documented, and on a slow machine workers would be killed as fast as they start.
        """
        while len(ready := self._ready()) < (1 if chance < 0.25 else 2):
            self.rest(0.1)
        busy = [worker for worker in ready if self._held_by(worker)] if chance < 0.8 else []
        among = busy or ready
        return among[int(chance * 1000) % len(among)]

    def _held_by(self, worker: WorkerProcess) -> list[tuple[str, str]]:
        for _ in range(3):  # connections of before a restart fail once
            try:
                with self._client.stores.database.reading() as connection:
                    rows = connection.execute(sql(HELD_BY), {"holder": f"%:{worker.pid}:%"})
                    return [(row.session_id, row.turn_id) for row in rows]
            except StoreUnavailable:
                continue
        return []

    def _kill(self, chance: float) -> bool:
        worker = self._victim(chance)
        held = self._held_by(worker)
        worker.kill()
        self._fleet.remove(worker)
        self._lost("killed", worker, held)
        return worker.wait(0) == -signal.SIGKILL

    def _stop(self, chance: float) -> bool:
        worker = self._victim(chance)
        held = self._held_by(worker)
        worker.signal(signal.SIGSTOP)
        self._stopped[worker] = self._clock.monotonic() + self.zombie_seconds * (1 + chance)
        self._lost("stopped", worker, held)
        return False

    def _lost(self, how: str, worker: WorkerProcess, held: list[tuple[str, str]]) -> None:
        others = frozenset(other.name for other in self._ready() if other is not worker)
        self.losses.append(Loss(self._clock.now_ms(), worker.name, held, others))
        self._note(how, worker=worker.name, pid=worker.pid, turns=held)

    def _flush(self, chance: float) -> bool:
        with redis.Redis.from_url(self.redis.url) as connection:
            return bool(connection.flushall())

    def _restart(self, server: PrivatePostgres | PrivateRedis, how: signal.Signals, chance: float) -> bool:
        self.outages.append(self._clock.now_ms())
        server.restart(how, after=lambda: self.rest(LONGEST_OUTAGE * chance))
        return True

    def _double_rings(self, chance: float) -> bool:
        """Ring until so many messages are out: a ring that fails is not heard, nor are those right behind it."""
        first, wanted = int(chance * 1000), self.doubled + RINGS * TIMES
        until = self._clock.monotonic() + PATIENCE_SECONDS
        while self.doubled < wanted and self._clock.monotonic() < until:
            for number in range(RINGS):
                session = SessionId(session_name((first + number) % self.sessions))
                for _ in range(TIMES):
                    self._doorbell.ring_session(session)
            self.rest(0.1)
        return self.doubled >= wanted

    def _count_published(self, **_: object) -> None:
        self.doubled += 1

    def _drop_rings(self, chance: float) -> bool:
        """Take messages before a worker does. Hardly one ever waits, so this waits in line with the workers."""
        queues, before = [Queue.TURNS.value, Queue.CHECKPOINTS.value], self.dropped
        until = self._clock.monotonic() + PATIENCE_SECONDS
        with redis.Redis.from_url(self.redis.url) as connection:
            while self.dropped < before + DROPPED and self._clock.monotonic() < until:
                self.dropped += connection.brpop(queues, timeout=1) is not None
                self.revive()
        return self.dropped > before

    def _replace_sender(self, chance: float) -> bool:
        killed = self._kill_sender()
        self.start_sender()
        return killed
