"""The one event loop on which all `async def` tools of a process run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

from lash_tasks.clock import Clock
from lash_tasks.tools.attempt import Attempt

log = logging.getLogger(__name__)
T = TypeVar("T")

CLOSE_GRACE = 2.0
"""Seconds that cancelled coroutines get to end in `close`."""


class LoopClosed(Exception):
    """The worker is going away; nothing was run."""


class SharedLoop:
    """An event loop in a daemon thread, started by the first coroutine.

    A coroutine that blocks without awaiting delays all others, as on any loop; whoever waits for a call is not held up.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._ended = threading.Event()

    def run(self, coroutine: Coroutine[object, object, object], attempt: Attempt[T]) -> object:
        """The coroutine's result. Returns or raises only once it has ended; it is cancelled when `attempt` is given up.

        It sees a copy of the calling thread's context variables.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise LoopClosed
            loop = self._loop = self._loop or self._start()
            future = asyncio.run_coroutine_threadsafe(_cancellable(coroutine, attempt), loop)
        return future.result()

    def close(self) -> None:
        """Cancel what runs, give it CLOSE_GRACE to end, and end the thread."""
        with self._lock:
            already, self._closed = self._closed, True
            loop = self._loop
        if loop is None:
            return
        if not already:
            loop.call_soon_threadsafe(loop.stop)
        self._clock.wait(self._ended, CLOSE_GRACE)

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, args=(loop,), name="lash-tool-loop", daemon=True).start()
        return loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._closed:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets these two through after it has given them to whoever awaits the task; one tool that
                # calls sys.exit() must not end the loop of all.
                log.warning("a task of an async tool tried to exit the process")
        try:
            loop.run_until_complete(_cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            self._ended.set()


async def _cancellable(coroutine: Coroutine[object, object, object], attempt: Attempt[T]) -> object:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        if task is not None:
            with suppress(RuntimeError):  # the loop is closed, and the task with it
                loop.call_soon_threadsafe(task.cancel)

    attempt.on_give_up(cancel)
    return await coroutine


async def _cancel_all() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others)
