"""`deps` is a context manager entered around every attempt, in the attempt's own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest

from lash_tasks.domain.turns import FailureClass, ToolFailure
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import tool
from tests.tools.calls import PATIENCE
from tests.tools.conftest import Bench


class Connections:
    """Opens a numbered connection for each attempt and keeps what became of it."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.closed: list[tuple[int, str]] = []

    @contextmanager
    def open(self) -> Iterator[int]:
        number = len(self.opened)
        self.opened.append(threading.get_ident())
        try:
            yield number
        except BaseException as error:
            self.closed.append((threading.get_ident(), type(error).__name__))
            raise
        self.closed.append((threading.get_ident(), "committed"))


@tool
def use(ctx: ToolContext) -> tuple[object, int]:
    return ctx.deps, threading.get_ident()


@tool
async def use_later(ctx: ToolContext) -> object:
    await asyncio.sleep(0)
    return ctx.deps


@tool
def fail() -> None:
    raise ValueError("no")


@tool
async def fail_later() -> None:
    raise ValueError("no")


@tool
def return_lock():  # type: ignore[no-untyped-def]  # a tool without a result annotation
    return threading.Lock()


def failed(message: str) -> ToolFailure:
    return ToolFailure(FailureClass.EXECUTION, "tool_failed", message)


def test_every_attempt_has_deps_of_its_own_in_the_thread_of_the_function(bench: Bench) -> None:
    connections = Connections()
    calls = bench(use, deps=connections.open)
    results = [calls.value("use"), calls.value("use")]
    assert [number for number, _ in results] == [0, 1]
    assert [thread for _, thread in results] == connections.opened
    assert connections.closed == [(thread, "committed") for thread in connections.opened]
    assert threading.get_ident() not in connections.opened


def test_a_coroutine_gets_deps_that_do_not_block_its_loop(bench: Bench) -> None:
    """As many calls as want each other's deps to be open: entering them on the one loop would wait for ever."""
    barrier = threading.Barrier(3)

    @contextmanager
    def pooled() -> Iterator[str]:
        barrier.wait(PATIENCE)
        yield "connection"

    calls = bench(use_later, deps=pooled)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(calls.value, ["use_later"] * 3)) == ["connection"] * 3


@pytest.mark.parametrize(
    ("name", "seen"), [("fail", "ValueError"), ("fail_later", "ValueError"), ("return_lock", "InvalidResult")]
)
def test_deps_see_the_failure_of_the_call(bench: Bench, name: str, seen: str) -> None:
    connections = Connections()
    assert bench(fail, fail_later, return_lock, deps=connections.open).failure(name).code == "tool_failed"
    assert connections.closed == [(connections.opened[0], seen)]


def test_deps_that_do_not_open_are_named_and_nothing_is_called(bench: Bench) -> None:
    called = threading.Event()

    @tool
    def mark() -> None:
        called.set()

    @contextmanager
    def broken() -> Iterator[None]:
        if not called.is_set():
            raise ConnectionError("no database")
        yield

    assert bench(mark, deps=broken).failure("mark") == failed("deps: ConnectionError: no database")
    not_a_manager = bench(mark, deps=cast(Any, lambda: 5)).failure("mark")
    assert not_a_manager.message.startswith("deps: TypeError: 'int' object does not support the context manager")
    assert not called.is_set()


def test_deps_that_fail_to_close_are_named(bench: Bench) -> None:
    """What the function did was not committed then, so its result does not stand."""

    @contextmanager
    def commit_fails() -> Iterator[None]:
        yield
        raise ConnectionError("commit failed")

    assert bench(use, deps=commit_fails).failure("use") == failed("deps: ConnectionError: commit failed")


def test_the_failure_of_the_tool_is_told_whatever_deps_make_of_it(bench: Bench) -> None:
    @contextmanager
    def swallows() -> Iterator[None]:
        with suppress(ValueError):
            yield

    @contextmanager
    def replaces() -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise ConnectionError("rollback failed") from None

    assert bench(fail, deps=swallows).failure("fail") == failed("ValueError: no")
    assert bench(fail, deps=replaces).failure("fail") == failed("ValueError: no")
