"""Live events on their way out of a worker: those of all turns together, in a thread that no turn waits for.

The first event after a pause goes at once, as does the end of a turn; what comes right behind goes together.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.stores.protocols import LiveReplay

log = logging.getLogger(__name__)

MAX_WAITING = 20_000
"""How many events may wait for a slow Redis. Those that come on top are lost, as live events may be."""
MAX_TOGETHER = 512
LINGER_SECONDS = 0.02
"""How long events gather after some have gone, unless one of them says that its turn has committed."""


class LiveWriter:
    """One per worker. Until it is started, and once it is stopped, it hands events on in their turn's own thread."""

    def __init__(self, live: LiveReplay) -> None:
        self._live = live
        self._waiting: list[TurnActivity] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._overflowed = False
        self._urgent = False

    def append(self, activities: Sequence[TurnActivity]) -> None:
        """Send the events soon, each session's in order. Never raises and, in a running worker, never waits."""
        with self._changed:
            if self._thread is not None:
                self._queue(activities)
                return
        self._live.append(activities)

    def start(self) -> None:
        with self._changed:
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="lash-live", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Send what waits and end the thread. Idempotent.

        Until the thread has nothing left, events still go behind those that wait: a turn that outlived the drain is
        not to overtake itself.
        """
        with self._changed:
            thread, self._stopping = self._thread, True
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _queue(self, activities: Sequence[TurnActivity]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            if not self._overflowed:
                log.warning("Live events are lost: they come faster than they can be sent")
            self._overflowed = True
            return
        self._overflowed = False
        first, urgent = not self._waiting, any(one.type is ActivityType.COMMITTED for one in activities)
        self._waiting += activities
        self._urgent |= urgent
        if first or urgent:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                together, self._waiting, self._urgent = self._waiting, [], False
                if not together:
                    self._thread = None
                    return
            for start in range(0, len(together), MAX_TOGETHER):
                self._live.append(together[start : start + MAX_TOGETHER])
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._stopping, LINGER_SECONDS)
