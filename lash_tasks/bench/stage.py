"""What every scene stands on: the servers, the endpoint, the accountant, and how workers, driver and control start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from lash_tasks.bench import workload
from lash_tasks.bench.accounting import Accountant, Usage, groups_of
from lash_tasks.bench.children import BenchFailed, Child, WorkerProcess
from lash_tasks.bench.figures import Figures, latencies, processors
from lash_tasks.bench.places import BenchDatabase, BenchRedis, Meter
from lash_tasks.bench.profiling import profiling
from lash_tasks.clock import Clock, SystemClock

Measured = dict[str, Any]
"""What a scene or a control came to: `turns`, `seconds`, `foreign_cores` and `figures`."""

START_SECONDS = 60.0
COUNTED_SECONDS = 4.0
"""Postgres tells of a transaction up to a second late: over a shorter time their number means nothing."""
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
    keeps_workers: bool
    profiles: Path | None
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self._groups = {self.endpoint.pid: "endpoint"}
        self._never = threading.Event()
        self._started = 0
        self._casts = 0
        self._children = ExitStack()
        self._driver: Child | None = None
        self._controls: list[Child] = []
        self._workers: list[WorkerProcess] = []
        self.accountant = Accountant(self._members)

    def _members(self) -> Mapping[int, str]:
        # Servers last: private ones are our descendants too.
        return {**groups_of(dict(self._groups), "driver"), **self.database.processes(), **self.redis.processes()}

    def sample(self) -> Sample:
        return Sample(self.database.meter(), self.accountant.read())

    @contextmanager
    def open(self) -> Iterator[Self]:
        """The stage with its accountant at work; every process that it started is gone at the end."""
        with self._children, self.accountant.working():
            try:
                yield self
            finally:
                self.stop_workers()

    def new_sessions(self, name: str, count: int) -> list[str]:
        """Names that no session had before."""
        self._casts += 1
        return [f"{name}-{self._casts}-{number:03}" for number in range(count)]

    def endpoint_state(self, path: str) -> dict[str, int]:
        """Tell the endpoint something, or only ask: what it counts."""
        url = httpx.URL(self.endpoint_url).copy_with(path=f"/{path}")
        state: dict[str, int] = httpx.post(url, trust_env=False).json()
        return state

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the condition holds; BenchFailed if that takes too long."""
        deadline = self.clock.monotonic() + START_SECONDS
        while not condition():
            if self.clock.monotonic() > deadline:
                raise BenchFailed(f"waited {START_SECONDS:g} s for {what}")
            self.sleep(0.02)

    def sleep(self, seconds: float) -> None:
        self.clock.wait(self._never, seconds)

    # ------------------------------------------------------------ workers

    @contextmanager
    def workers(self, count: int, threads: int) -> Iterator[list[WorkerProcess]]:
        """Real workers, registered, and stopped at the end unless they are kept for the next scene.

        Whoever kills one puts another into the list.
        """
        workers = self._workers
        try:
            for worker in workers[count:]:
                worker.terminate()
                worker.stop()
            del workers[count:]
            while len(workers) < count:
                workers.append(self.start_worker(threads))
            self.wait_for(workers)
            yield workers
        finally:
            if not self.keeps_workers:
                self.stop_workers()

    def stop_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    @contextmanager
    def profiling(self, name: str) -> Iterator[None]:
        """Profile the workers meanwhile, where that was ordered."""
        if self.profiles is None:
            yield
            return
        with profiling([worker.pid for worker in self._workers], self.profiles, name) as found:
            yield
        for line in found:
            self.progress.say(line)

    def start_worker(self, threads: int) -> WorkerProcess:
        self._started += 1
        log = self.directory / f"worker-{self._started}.log"
        worker = WorkerProcess(self._started, threads, self.environment, log)
        self._groups[worker.pid] = "workers"
        return worker

    def wait_for(self, workers: Sequence[WorkerProcess]) -> None:
        """Return when the workers are registered; BenchFailed if one ends or takes too long."""
        pids = [worker.pid for worker in workers]

        def registered() -> bool:
            for worker in workers:
                worker.check()
            row = connection.execute(REGISTERED, (pids,)).fetchone()
            return row is not None and row[0] == len(pids)

        with self.database.connected() as connection:
            self.until(registered, "the workers to register")

    # ------------------------------------------------------------ driver and control

    @contextmanager
    def driving(self, **job: object) -> Iterator[Child]:
        """The driver, at work on a job. The job must be at its end when the context is."""
        if self._driver is None:
            log = self.directory / "driver.log"
            child = Child("lash_tasks.bench.driver", log=log, environment=self.environment)
            self._driver = self._children.enter_context(child)
        self._driver.say(job)
        yield self._driver

    def control(self, processes: int, threads: int, seconds: float, model: str = workload.MODEL) -> Measured:
        """The figures of the control, after a warm-up of a quarter of `seconds`."""
        while len(self._controls) < processes:
            child = Child("lash_tasks.bench.control", log=self.directory / "control.log")
            self._controls.append(self._children.enter_context(child))
            self._groups[child.pid] = "workers"
        children = self._controls[:processes]
        job = {
            "database_url": self.database.url,
            "endpoint_url": self.endpoint_url,
            "model": model,
            "threads": threads,
        }
        for child in children:
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
        if not inside and seconds < START_SECONDS:
            return self.control(processes, threads, 2 * seconds, model)
        return summary(before, after, inside, after.usage.at - before.usage.at)


def summary(
    before: Sample, after: Sample, turn_seconds: Sequence[float], seconds: float, uncounted: float = 0.0
) -> Measured:
    """The figures of the time between two samples, in which these turns ended.

    `uncounted` transactions are the driver's own.
    """
    turns = len(turn_seconds)
    used = after.usage.since(before.usage)
    transactions = after.meter.transactions - before.meter.transactions - uncounted
    figures: Figures = {
        "turns_per_s": round(turns / seconds, 2),
        **latencies(turn_seconds),
        "in_flight": round(sum(turn_seconds) / seconds, 1),
        **processors(used.groups, turns),
        "transactions_per_turn": round(transactions / turns, 2) if seconds >= COUNTED_SECONDS else None,
        "wal_bytes_per_turn": round((after.meter.wal - before.meter.wal) / turns, 1),
    }
    return {
        "turns": turns,
        "seconds": round(seconds, 3),
        "foreign_cores": round(used.foreign_cores(), 3),
        "figures": figures,
    }
