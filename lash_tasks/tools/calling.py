"""Calling functions of the application: a thread for each, with deps, a time limit and interrupts."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from lash_tasks.clock import Clock
from lash_tasks.ports import Interrupt, Interrupted, InterruptReason
from lash_tasks.tools.attempt import Attempt
from lash_tasks.tools.loop import SharedLoop
from lash_tasks.tools.results import InvalidResult
from lash_tasks.tools.text import describe
from lash_tasks.tools.threads import DaemonPool

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_TOOL_THREADS = 256
"""Calls that may run at once in one process, those that were given up and still run included."""

OpenDeps = Callable[[], AbstractContextManager[object]]


class CallFailed(Exception):
    """What was called, or its deps, raised `error`."""

    def __init__(self, message: str, error: BaseException) -> None:
        super().__init__(message)
        self.message = message
        self.error = error


class CallTimedOut(Exception):
    def __init__(self, begun: bool) -> None:
        super().__init__(begun)
        self.begun = begun
        """Whether the function was called: then it is unknown what it did."""


@dataclass(frozen=True, slots=True)
class InCall:
    """What a function is called with: its deps, and how to see a coroutine through."""

    deps: object
    given_up: threading.Event
    finished: Callable[[object], object]
    """A value as it is; of a coroutine its result, from the shared loop."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How a call ended: with `failure`, or else with `values[0]`."""

    values: tuple[T, ...] = ()
    failure: CallFailed | None = None


class Caller:
    """Calls functions, each in a thread of its own, so that a timeout or an interrupt returns at once.

    Python cannot stop a thread: a function that was given up goes on until it returns, keeps its thread, and what it
    gives is dropped. A coroutine runs on one shared loop and is cancelled. `deps` is entered before the function and
    left after it in the call's thread; an exception of the function reaches it.
    """

    def __init__(self, *, clock: Clock, deps: OpenDeps | None = None, max_threads: int = MAX_TOOL_THREADS) -> None:
        self._clock = clock
        self._deps: OpenDeps = deps or nullcontext
        self._pool = DaemonPool("lash-tool", max_threads)
        self._loop = SharedLoop(clock)
        self._lock = threading.Lock()
        self._in_flight: set[Callable[[], None]] = set()
        self._closed = False

    def call(self, function: Callable[[InCall], T], seconds: float, interrupt: Interrupt, ids: Mapping[str, str]) -> T:
        """What `function` gives. Raises CallFailed, CallTimedOut, and Interrupted, also when the caller is closed.

        A call that has ended counts even if an interrupt comes at the same moment. `ids` are for the log.
        """
        attempt: Attempt[Ended[T]] = Attempt()
        give_up = attempt.abandon
        with self._lock:
            if self._closed:
                raise Interrupted(InterruptReason.DRAINING)
            self._in_flight.add(give_up)
        unsubscribe = interrupt.on_set(attempt.changed.set)
        try:
            perform = partial(copy_context().run, self._perform, function, attempt, ids)
            if self._pool.submit(perform):
                self._clock.wait(attempt.changed, seconds)
        finally:
            ended = attempt.settle()
            unsubscribe()
            with self._lock:
                self._in_flight.discard(give_up)
        if ended is not None:
            if ended.failure is not None:
                raise ended.failure
            return ended.values[0]
        interrupt.check()
        if self._closed:
            raise Interrupted(InterruptReason.DRAINING)
        raise CallTimedOut(attempt.begun)

    def close(self) -> None:
        """Give up the calls in flight, whose callers get Interrupted (draining), and end the threads that are idle."""
        with self._lock:
            self._closed = True
            in_flight = list(self._in_flight)
        for give_up in in_flight:
            give_up()
        self._pool.close()
        self._loop.close()

    def _perform(self, function: Callable[[InCall], T], attempt: Attempt[Ended[T]], ids: Mapping[str, str]) -> None:
        """The body of the call's thread. Never raises."""
        if attempt.given_up.is_set():
            return
        values: tuple[T, ...] = ()
        error: BaseException | None = None
        try:
            with self._deps() as deps:
                try:
                    if attempt.begin():
                        values = (function(InCall(deps, attempt.given_up, partial(self._finished, attempt))),)
                except BaseException as raised:
                    error = raised
                    raise
            # An exception that deps swallowed is a failure all the same: there is no value.
            message = "" if error is None else _message(error)
        except BaseException as raised:
            message = f"deps: {describe(raised)}" if error is None else _message(error)
            error = error or raised
        if attempt.given_up.is_set():
            log.info("given-up call ended", extra=ids)
        elif error is None:
            attempt.finish(Ended(values))
        else:
            attempt.finish(Ended(failure=CallFailed(message, error)))

    def _finished(self, attempt: Attempt[Ended[T]], value: object) -> object:
        return self._loop.run(value, attempt) if inspect.iscoroutine(value) else value


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, InvalidResult) else describe(error)
