"""A worker process at work: its threads, its start, its drain and its end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from lash_tasks import beat_schedule
from lash_tasks.domain.codec import digest
from lash_tasks.machine.turn import MACHINE_VERSION
from lash_tasks.queues import NO_NAMESPACE, Names, Queue, Task
from lash_tasks.runtime.drain import drain
from lash_tasks.runtime.insister import Insister
from lash_tasks.runtime.keeper import LeaseKeeper, WorkerBeat
from lash_tasks.runtime.maintenance import Maintenance
from lash_tasks.runtime.repertoire import Repertoire
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.session_runner import SessionRunner
from lash_tasks.runtime.ticker import Periodic, Tick, Ticker
from lash_tasks.runtime.worker import Worker
from lash_tasks.stores.protocols import Pruning, WorkerRecord

log = logging.getLogger(__name__)

RENEWALS_PER_TTL = 3
TICK_SECONDS = 0.25
PASSES = {"ticker": {Task.RESCUE, Task.SWEEP, Task.WAKE_DUE}, "pruner": {Task.PRUNE}}
"""Which thread runs which lines of the table. What takes long must not keep the passes of every second waiting."""


class RunningWorker:
    """One per process. `start` announces it, once; `drain` empties it and `stop` ends it, both idempotent."""

    def __init__(
        self,
        services: RuntimeServices,
        worker: Worker,
        record: WorkerRecord,
        pruning: Pruning,
        drain_grace: float,
        names: Names = NO_NAMESPACE,
    ) -> None:
        self.services = services
        self.worker = worker
        self._repertoire = Repertoire(services.agents, services.fleet)
        self.sessions = SessionRunner(services, worker, self._repertoire)
        record = replace(record, agents=self._repertoire.refs, machine_version=MACHINE_VERSION)
        self._record = record
        self._insister = Insister(services.fleet, record, self.sessions.run)
        self.maintenance = Maintenance(
            services.work,
            services.leases,
            services.slots,
            services.doorbell,
            self._repertoire,
            self._insister,
            pruning,
            services.clock,
            lambda: worker.draining,
        )
        self._drain_grace = drain_grace
        self._maintenance_queue = names.queue(Queue.MAINTENANCE)
        self._keeper = LeaseKeeper(worker, services.leases, services.lease_ttl_ms)
        self._beat = WorkerBeat(worker, services.fleet, services.turns, record)
        self._threads: list[Periodic] = []
        self._lock = threading.Lock()
        self._stopped = False

    def start(self, *, tick: bool | None = None, extra: tuple[Periodic, ...] = ()) -> None:
        """Register the agents, show the first sign of life, start the threads.

        `tick` starts the ticker; by default a worker ticks when it serves the maintenance queue.
        """
        services = self.services
        services.fleet.register_agents([agent.snapshot() for agent in services.agents.values()])
        self._beat.beat()
        seconds = services.lease_ttl_ms / 1000 / RENEWALS_PER_TTL
        every: list[tuple[str, float, Callable[[], object]]] = [
            ("keeper", seconds, self._keep),
            ("beat", seconds, self._beat.beat),
        ]
        if tick if tick is not None else self._maintenance_queue in self._record.queues:
            # A worker looks only after what it has the code for, so another version's pass does not stand in for it.
            serves = digest([MACHINE_VERSION, *sorted(self._repertoire.refs.values())])[:16]
            for name, tasks in PASSES.items():
                ticker = Ticker(self._ticks(tasks), services.slots, services.clock, serves=serves)
                every.append((name, TICK_SECONDS, ticker.tick))
        self._threads = [Periodic(name, period, action, services.clock) for name, period, action in every]
        self._threads += extra
        services.live.start()
        for thread in self._threads:
            thread.start()
        log.info("worker started", extra={"worker": self.worker.id, "queues": list(self._record.queues)})

    def drain(self) -> bool:
        """Let go of everything within the grace; whether that worked."""
        return drain(self.worker, self._drain_grace)

    def stop(self) -> None:
        """End the threads and take this worker off the list of the living."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self.worker.begin_drain()
        for thread in self._threads:
            thread.stop()
        self._insister.close()
        self.services.live.stop()
        try:
            self.services.fleet.leave(self.worker.id)
        except Exception:
            log.warning("the worker could not sign off; its row will age", extra={"worker": self.worker.id})
        log.info("worker stopped", extra={"worker": self.worker.id})

    def _keep(self) -> None:
        self._keeper.keep()
        self.services.gatekeeper.renew()

    def _ticks(self, tasks: Collection[Task]) -> dict[str, Tick]:
        passes: dict[str, Callable[[], object]] = {
            Task.RESCUE: self.maintenance.rescue,
            Task.SWEEP: self.maintenance.sweep,
            Task.WAKE_DUE: self.maintenance.wake_due,
            Task.PRUNE: self.maintenance.prune,
        }
        lines = {name: line for name, line in beat_schedule.BEAT_SCHEDULE.items() if line.task in tasks}
        return {name: Tick(line.every_seconds, passes[line.task]) for name, line in lines.items()}
