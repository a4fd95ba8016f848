"""A bounded pool of daemon threads, for functions that may never return."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class DaemonPool:
    """Threads started when they are needed, `max_threads` at most.

    The standard library's executor joins its threads when the interpreter exits, so one function that hangs would keep
    a worker from stopping; these are daemons. A job must not raise.
    """

    def __init__(self, name: str, max_threads: int) -> None:
        if max_threads < 1:
            raise ValueError(f"max_threads must be at least 1, not {max_threads}")
        self._name = name
        self._max_threads = max_threads
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._unfinished = 0
        self._threads: set[threading.Thread] = set()
        self._busy: set[threading.Thread] = set()
        self._started = 0
        self._closed = False

    def submit(self, job: Job) -> bool:
        """Run `job` in a thread of the pool as soon as one is free; False if the pool is closed."""
        with self._changed:
            return self._accept(job)

    def offer(self, job: Job) -> bool:
        """Run `job` now if a thread is free or can be started; False if not, and nothing is kept."""
        with self._changed:
            return self._unfinished < self._max_threads and self._accept(job)

    def close(self) -> None:
        """Drop what has not begun and end the threads. One that is in a job ends after it; that is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle = self._threads - self._busy
        for thread in idle:
            thread.join()

    def _accept(self, job: Job) -> bool:
        if self._closed:
            return False
        # As many threads as unfinished jobs, up to the bound: so an accepted job waits only when all are busy.
        if len(self._threads) < min(self._unfinished + 1, self._max_threads):
            self._start_thread()
        self._unfinished += 1
        self._jobs.append(job)
        self._changed.notify()
        return True

    def _start_thread(self) -> None:
        self._started += 1
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True)
        thread.start()
        self._threads.add(thread)

    def _serve(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if self._closed:
                    self._threads.discard(me)
                    return
                job = self._jobs.popleft()
                self._busy.add(me)
            job()
            del job  # it holds arguments and results, and this thread may now be idle for days
            with self._changed:
                self._unfinished -= 1
                self._busy.discard(me)
