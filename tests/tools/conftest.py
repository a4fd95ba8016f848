"""Dispatchers that are closed after the test, and the proof that closing ends their threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lash_tasks.clock import Clock, SystemClock
from lash_tasks.tools.calling import MAX_TOOL_THREADS, OpenDeps
from lash_tasks.tools.definition import Tool
from lash_tasks.tools.dispatch import ToolDispatcher
from lash_tasks.tools.results import MAX_RESULT_BYTES
from tests.services import wait_until
from tests.tools.calls import Calls, agents_with


class Bench:
    """Makes dispatchers over a few tools."""

    def __init__(self) -> None:
        self.dispatchers: list[ToolDispatcher] = []

    def __call__(
        self,
        *tools: Tool[..., object],
        clock: Clock | None = None,
        deps: OpenDeps | None = None,
        max_threads: int = MAX_TOOL_THREADS,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> Calls:
        dispatcher = ToolDispatcher(
            agents_with(*tools),
            clock=clock or SystemClock(),
            deps=deps,
            max_threads=max_threads,
            max_result_bytes=max_result_bytes,
        )
        self.dispatchers.append(dispatcher)
        return Calls(dispatcher)


def lash_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lash-tool")]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Dispatchers for one test. Afterwards each is closed and not one of its threads is left."""
    made = Bench()
    yield made
    for dispatcher in made.dispatchers:
        dispatcher.close()
    wait_until(lambda: not lash_threads(), 10, f"the threads {lash_threads()} to end")
