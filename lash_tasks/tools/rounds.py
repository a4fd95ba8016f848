"""The calls of one tool round, run side by side in a bounded pool that never makes a caller wait for a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Generic, TypeVar

from lash_tasks.tools.threads import DaemonPool

MAX_ROUND_THREADS = 64

T = TypeVar("T")


class RoundExecutor:
    """Runs jobs concurrently. One object serves every turn of a worker."""

    def __init__(self, max_threads: int = MAX_ROUND_THREADS) -> None:
        self._pool = DaemonPool("lash-tool-round", max_threads)

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """Run all jobs and wait for all; results in order, what a job raised (Interrupted too) in its place.

        The caller takes jobs as well, so a single job runs in the caller, and so do those for which no thread is free:
        nothing waits behind another turn's jobs, however many turns call at once. Each job sees a copy of the caller's
        context variables.
        """
        work = _Round(jobs)
        for _ in range(len(jobs) - 1):
            if not self._pool.offer(work.help):
                break
        work.help()
        return work.results()

    def close(self) -> None:
        """End the threads. Rounds under way, and later ones, go on in their callers."""
        self._pool.close()


class _Round(Generic[T]):
    """The jobs of one call of `run`; whoever helps takes the next one that nobody has taken."""

    def __init__(self, jobs: Sequence[Callable[[], T]]) -> None:
        self._jobs = [(copy_context(), job) for job in jobs]
        self._results: dict[int, T | BaseException] = {}
        self._lock = threading.Lock()
        self._next = 0
        self._finished = threading.Event()
        if not jobs:
            self._finished.set()

    def help(self) -> None:
        """Run jobs until all are taken."""
        while (index := self._take()) is not None:
            context, job = self._jobs[index]
            result: T | BaseException
            try:
                result = context.run(job)
            except BaseException as error:
                result = error
            with self._lock:
                self._results[index] = result
                if len(self._results) == len(self._jobs):
                    self._finished.set()

    def results(self) -> list[T | BaseException]:
        """Wait until every job has ended."""
        self._finished.wait()
        return [self._results[index] for index in range(len(self._jobs))]

    def _take(self) -> int | None:
        with self._lock:
            if self._next == len(self._jobs):
                return None
            self._next += 1
            return self._next - 1
