"""The insister sees to work that was rung for in vain, because the doorbells went to workers without its code.

A doorbell is answered by whichever worker takes it. While a deployment has workers of several versions, or with several
agents, that may be a wrong one time after time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import StoreUnavailable
from lash_tasks.stores.protocols import Fleet, Runnable, WorkerRecord
from lash_tasks.tools.exits import EXITS
from lash_tasks.tools.threads import DaemonPool

log = logging.getLogger(__name__)

THREADS = 4
"""Sessions that one process may have at work beside those that its tasks have."""


class Insister:
    """Answers in this process, in threads of its own, what this process has rung for once and finds again.

    It does so only while some live worker has other code than this one: otherwise whoever takes the doorbell will do,
    and what is found again only stands in a long queue. `run` is what a doorbell calls. Safe from any thread.
    """

    def __init__(self, fleet: Fleet, worker: WorkerRecord, run: Callable[[SessionId], object]) -> None:
        self._fleet = fleet
        self._worker = worker
        self._run = run
        self._pool = DaemonPool("lash-insister", THREADS)
        self._lock = threading.Lock()
        self._rung: dict[str, set[Runnable]] = {}

    def answered(self, looked_by: str, found: Sequence[Runnable], ring_for: Sequence[Runnable]) -> set[Runnable]:
        """What of `ring_for` is answered here instead; the rest is remembered for as long as that pass finds it."""
        with self._lock:
            before = self._rung.get(looked_by, set()).intersection(found)
            self._rung[looked_by] = before.union(ring_for)
        again = [one for one in ring_for if one in before]
        if not again or not self._others_differ():
            return set()
        return {one for one in again if self._answers(one)}

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.close()

    def _others_differ(self) -> bool:
        mine = (self._worker.agents, self._worker.machine_version)
        try:
            workers = self._fleet.workers()
        except StoreUnavailable:
            return False
        return any(one.live and (one.agents, one.machine_version) != mine for one in workers)

    def _answers(self, one: Runnable) -> bool:
        def job() -> None:
            try:
                self._run(one.session_id)
            except (Exception, *EXITS):
                log.exception("a turn could not be run", extra=extra)

        extra = {"session_id": one.session_id, "turn_id": one.turn_id}
        answers = self._pool.offer(job)
        if answers:
            log.info("answered here: a doorbell was in vain, and workers of another version are about", extra=extra)
        return answers
