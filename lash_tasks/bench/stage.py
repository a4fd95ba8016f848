"""What every scene stands on: the servers, the endpoint, the accountant, and how workers, driver and control start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lash_tasks.bench import workload
from lash_tasks.bench.accounting import Accountant, Usage, groups_of
from lash_tasks.bench.children import BenchFailed, Child, WorkerProcess
from lash_tasks.bench.figures import Figures, latencies, processors
from lash_tasks.bench.places import BenchDatabase, BenchRedis, Meter
from lash_tasks.clock import Clock, SystemClock

START_SECONDS = 60.0
REGISTERED = "SELECT count(*) FROM lash_workers WHERE pid = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment: what the database has counted and what everybody has used."""

    meter: Meter
    usage: Usage


@dataclass(frozen=True, slots=True)
class Progress:
    """How a person is told: `say` that something begins, `show` how far it is, which is worth no line of a log."""

    say: Callable[[str], None]
    show: Callable[[str], None]


@dataclass(kw_only=True)
class Stage:
    """The stage of one benchmark."""

    database: BenchDatabase
    redis: BenchRedis
    endpoint: Child
    endpoint_url: str
    environment: Mapping[str, str]
    directory: Path
    progress: Progress
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self._groups = {self.endpoint.pid: "endpoint"}
        self._never = threading.Event()
        self._started = 0
        self.accountant = Accountant(self._members)

    def _members(self) -> Mapping[int, str]:
        return {**self.database.processes(), **self.redis.processes(), **groups_of(dict(self._groups), "driver")}

    def sample(self) -> Sample:
        return Sample(self.database.meter(), self.accountant.read())

    def sleep(self, seconds: float) -> None:
        self.clock.wait(self._never, seconds)

    # ------------------------------------------------------------ workers

    @contextmanager
    def workers(self, count: int, threads: int) -> Iterator[list[WorkerProcess]]:
        """Real workers, registered and stopped at the end. Whoever kills one may append another to the list."""
        workers: list[WorkerProcess] = []
        try:
            for _ in range(count):
                workers.append(self.start_worker(threads))
            self.wait_for(workers)
            yield workers
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.stop()

    def start_worker(self, threads: int) -> WorkerProcess:
        self._started += 1
        log = self.directory / f"worker-{self._started}.log"
        worker = WorkerProcess(self._started, threads, self.environment, log)
        self._groups[worker.pid] = "workers"
        return worker

    def wait_for(self, workers: Sequence[WorkerProcess]) -> None:
        """Return when the workers are registered; BenchFailed if one ends or takes too long."""
        deadline = self.clock.monotonic() + START_SECONDS
        with self.database.connected() as connection:
            while True:
                row = connection.execute(REGISTERED, ([worker.pid for worker in workers],)).fetchone()
                if row is not None and row[0] == len(workers):
                    return
                for worker in workers:
                    worker.check()
                if self.clock.monotonic() > deadline:
                    raise BenchFailed(f"the workers did not register within {START_SECONDS:g} s")
                self.sleep(0.05)

    # ------------------------------------------------------------ driver and control

    @contextmanager
    def driver(self, **job: object) -> Iterator[Child]:
        log = self.directory / "driver.log"
        with Child("lash_tasks.bench.driver", log=log, environment=self.environment) as child:
            self._groups[child.pid] = "driver"
            child.say(job)
            yield child

    def control(self, processes: int, threads: int, seconds: float, model: str = workload.MODEL) -> dict[str, Any]:
        """The figures of the control, after a warm-up of a quarter of `seconds`."""
        job = {
            "database_url": self.database.url,
            "endpoint_url": self.endpoint_url,
            "model": model,
            "threads": threads,
        }
        with ExitStack() as stack:
            children = [
                stack.enter_context(Child("lash_tasks.bench.control", log=self.directory / "control.log"))
                for _ in range(processes)
            ]
            for child in children:
                self._groups[child.pid] = "workers"
                child.say(job)
            for child in children:
                child.hear()
            for child in children:
                child.say("go")
            self.sleep(seconds / 4)
            before = self.sample()
            self.sleep(seconds)
            after = self.sample()
            for child in children:
                child.say("stop")
            turns = [turn for child in children for turn in child.hear()]
        inside = [seconds for ended, seconds in turns if before.usage.at <= ended < after.usage.at]
        if not inside:
            raise BenchFailed(f"no turn of the control ended within {seconds:g} s")
        return summary(before, after, inside, after.usage.at - before.usage.at)


def summary(
    before: Sample, after: Sample, turn_seconds: Sequence[float], seconds: float, uncounted: float = 0.0
) -> dict[str, Any]:
    """The figures of the time between two samples, in which these turns ended.

    `uncounted` transactions are the driver's own.
    """
    turns = len(turn_seconds)
    used = after.usage.since(before.usage)
    figures: Figures = {
        "turns_per_s": round(turns / seconds, 2),
        **latencies(turn_seconds),
        **processors(used.groups, turns),
        "transactions_per_turn": round((after.meter.transactions - before.meter.transactions - uncounted) / turns, 2),
        "wal_bytes_per_turn": round((after.meter.wal - before.meter.wal) / turns, 1),
    }
    return {
        "turns": turns,
        "seconds": round(seconds, 3),
        "foreign_cores": round(used.foreign_cores(), 3),
        "figures": figures,
    }
