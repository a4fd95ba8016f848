"""Who used the processors: the workers, the servers, the endpoint, the driver, and everybody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import psutil

from lash_tasks.clock import SystemClock

PERIOD_SECONDS = 1.0
"""How often processes are read: what one uses after the last reading before its end is lost."""

Members = Callable[[], Mapping[int, str]]
"""The processes that are accounted for just now: the group of each pid."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds used up to `at` (monotonic): by group, and by the whole machine."""

    at: float
    groups: Mapping[str, float]
    machine: float

    def since(self, earlier: Usage) -> Usage:
        """What was used between `earlier` and this; `at` is then the seconds between."""
        groups = {name: used - earlier.groups.get(name, 0.0) for name, used in self.groups.items()}
        return Usage(self.at - earlier.at, MappingProxyType(groups), self.machine - earlier.machine)

    def foreign_cores(self) -> float:
        """Of a difference: how many cores were busy with what belongs to no group."""
        return max(0.0, self.machine - sum(self.groups.values())) / self.at if self.at else 0.0


class Accountant:
    """Adds up the processor time of processes that come and go. One thread of its own reads them now and then."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[float, float]] = {}
        self._groups: dict[str, float] = {}
        self._stop = threading.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work, name="lash-bench-accountant", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def read(self) -> Usage:
        """What was used until now by the processes that were seen so far."""
        with self._lock:
            self._add_up()
            machine = psutil.cpu_times()
            idle = machine.idle + getattr(machine, "iowait", 0.0) + getattr(machine, "steal", 0.0)
            # Linux counts a guest's time twice: by itself and as `user`.
            busy = sum(machine) - idle - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
            return Usage(self._clock.monotonic(), MappingProxyType(dict(self._groups)), busy)

    def _work(self) -> None:
        while not self._clock.wait(self._stop, PERIOD_SECONDS):
            with self._lock:
                self._add_up()

    def _add_up(self) -> None:
        for pid, group in self._members().items():
            try:
                process = psutil.Process(pid)
                born, times = process.create_time(), process.cpu_times()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            used = times.user + times.system
            before_born, before = self._seen.get(pid, (born, 0.0))
            # A process that is seen for the first time has used what it has used since it was born.
            self._groups[group] = self._groups.get(group, 0.0) + used - (before if before_born == born else 0.0)
            self._seen[pid] = (born, used)


def groups_of(named: Mapping[int, str], others: str) -> Mapping[int, str]:
    """This process and all its descendants: each in the group of the nearest ancestor in `named`, else in `others`."""
    found = {psutil.Process().pid: others}
    for child in psutil.Process().children(recursive=True):  # parents come before their children
        try:
            found[child.pid] = named.get(child.pid) or found.get(child.ppid(), others)
        except psutil.NoSuchProcess:
            continue
    return found


def is_local(pid: int, *names: str) -> bool:
    """Whether `pid`, as a server gives its own, is a process of that name on this machine."""
    try:
        return psutil.Process(pid).name().startswith(names)
    except psutil.Error:
        return False
