"""Clocks of tests on which something happens."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lash_tasks.clock import FakeClock


class HookedClock(FakeClock):
    """A FakeClock on which something happens when somebody begins to wait."""

    on_wait: Callable[[], object] | None = None

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if self.on_wait is not None:
            self.on_wait()
        return super().wait(event, seconds)
