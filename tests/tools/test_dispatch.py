"""A call of a tool: what the function gets, and how each of its endings becomes an outcome."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Annotated

import pytest
from pydantic import AfterValidator

from lash_tasks.clock import SystemClock
from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.turns import FailureClass, ToolFailure
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import tool
from tests.tools.calls import PATIENCE, Elapses, invocation
from tests.tools.conftest import Bench

request_id: ContextVar[str] = ContextVar("request_id", default="none")


def look_up(value: int) -> int:
    raise KeyError(value)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@tool
def add(left: int, right: int = 1) -> int:
    return left + right


@tool
async def add_later(left: int, right: int = 1) -> int:
    await asyncio.sleep(0)
    return left + right


@tool
def describe(ctx: ToolContext) -> dict[str, JsonValue]:
    return {
        "ids": [ctx.session_id, ctx.turn_id, ctx.call_id],
        "tool": ctx.tool,
        "key": ctx.idempotency_key,
        "context": ctx.context,
        "deps": ctx.deps,
        "cancelled": ctx.cancelled,
    }


@tool
def fail(how: str) -> None:
    errors: dict[str, BaseException] = {
        "value": ValueError("bad \ud83d value"),
        "empty": KeyError(),
        "long": RuntimeError("x" * 5000),
        "unprintable": Unprintable(),
        "exit": SystemExit(3),
        "keyboard": KeyboardInterrupt(),
        "interrupted": Interrupted(InterruptReason.CANCELLED),
    }
    raise errors[how]


@tool
async def fail_later(how: str) -> None:
    await asyncio.sleep(0)
    fail(how)


def failed(message: str) -> ToolFailure:
    return ToolFailure(FailureClass.EXECUTION, "tool_failed", message)


def test_a_sync_and_an_async_function_give_their_results(bench: Bench) -> None:
    calls = bench(add, add_later)
    assert calls.value("add", {"left": 1}) == 2
    assert calls.value("add_later", {"left": 1, "right": 4}) == 5


def test_the_context_describes_the_call(bench: Bench) -> None:
    assert bench(describe).value("describe", context={"user": 1}) == {
        "ids": ["s1", "t1", "c1"],
        "tool": "describe",
        "key": "lash-key",
        "context": {"user": 1},
        "deps": None,
        "cancelled": False,
    }


def test_the_function_sees_the_callers_context_variables(bench: Bench) -> None:
    @tool
    def read() -> str:
        seen = request_id.get()
        request_id.set("changed by the tool")
        return seen

    @tool
    async def read_later() -> str:
        return read()

    calls = bench(read, read_later)
    token = request_id.set("r-1")
    try:
        assert calls.value("read") == "r-1"
        assert calls.value("read_later") == "r-1"
        assert request_id.get() == "r-1"
    finally:
        request_id.reset(token)


@pytest.mark.raises_code("tool_unavailable")
def test_an_unknown_tool_is_answered_with_the_names_there_are(bench: Bench) -> None:
    calls = bench(add, fail)
    assert calls.failure("subtract") == ToolFailure(
        FailureClass.UNAVAILABLE, "tool_unavailable", "there is no tool 'subtract'; the tools are: add, fail"
    )
    outcome = calls.dispatcher.run("nobody", invocation("add"), TurnInterrupt(SystemClock()))
    assert outcome.failure == ToolFailure(
        FailureClass.UNAVAILABLE, "tool_unavailable", "there is no tool 'add'; the tools are: none"
    )


@pytest.mark.raises_code("invalid_tool_args")
def test_arguments_that_do_not_fit_go_back_to_the_model_and_nothing_is_called(bench: Bench) -> None:
    called = threading.Event()

    @tool
    def count(number: int) -> None:
        called.set()

    failure = bench(count).failure("count", {"number": "many"})
    assert (failure.kind, failure.code) == (FailureClass.INVALID_REQUEST, "invalid_tool_args")
    assert "- number: Input should be a valid integer" in failure.message
    assert not called.is_set()


@pytest.mark.parametrize("name", ["fail", "fail_later"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("value", "ValueError: bad \ufffd value"),
        ("empty", "KeyError"),
        ("long", "RuntimeError: " + "x" * 1999 + "…"),
        ("unprintable", "Unprintable: its text cannot be read"),
        ("exit", "SystemExit: 3"),
        ("keyboard", "KeyboardInterrupt"),
        ("interrupted", "Interrupted: cancelled"),
    ],
)
def test_whatever_a_tool_raises_is_a_failure(bench: Bench, name: str, how: str, message: str) -> None:
    calls = bench(fail, fail_later, add_later)
    assert calls.failure(name, {"how": how}) == failed(message)
    assert calls.value("add_later", {"left": 1}) == 2


def test_a_task_that_an_async_tool_left_behind_cannot_end_the_loop(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    kept: list[asyncio.Task[None]] = []

    async def leave() -> None:
        ended.set()
        sys.exit(1)

    @tool
    async def spawn() -> None:
        task = asyncio.create_task(leave())
        kept.append(task)
        task.add_done_callback(lambda done: done.exception())

    calls = bench(spawn, add_later)
    assert calls.value("spawn") is None
    assert ended.wait(PATIENCE)
    assert calls.value("add_later", {"left": 1}) == 2
    assert "a task of an async tool tried to exit the process" in caplog.messages


def test_a_failing_validator_of_the_tool_is_its_failure(bench: Bench) -> None:
    @tool
    def check(value: Annotated[int, AfterValidator(look_up)]) -> None: ...

    assert bench(check).failure("check", {"value": 1}) == failed("KeyError: 1")


def test_a_failure_is_logged_with_its_traceback_and_without_the_arguments(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    def pay(card: str) -> None:
        raise ValueError("declined")

    with caplog.at_level(logging.DEBUG, "lash_tasks"):
        assert bench(pay).failure("pay", {"card": "4111-secret"}) == failed("ValueError: declined")
    (record,) = [record for record in caplog.records if record.name.startswith("lash_tasks")]
    assert (record.levelname, record.message, record.__dict__["call_id"]) == ("WARNING", "tool failed", "c1")
    assert "ValueError: declined" in caplog.text
    assert "Traceback" in caplog.text
    assert "secret" not in caplog.text + str(record.__dict__)


def test_a_result_that_json_cannot_carry_is_a_failure_that_names_the_tool(bench: Bench) -> None:
    @tool
    def measure() -> float:
        return float("nan")

    @tool
    def shout() -> str:
        return "x" * 100

    failure = bench(measure).failure("measure")
    assert (failure.kind, failure.code) == (FailureClass.EXECUTION, "tool_failed")
    assert failure.message.startswith("tool measure returned a value that JSON cannot carry")
    assert bench(shout, max_result_bytes=50).failure("shout") == failed(
        "tool shout returned 102 bytes of JSON and may return at most 50"
    )


def test_the_duration_is_measured_by_the_clock(bench: Bench) -> None:
    assert bench(add, clock=Elapses(0.25)).outcome("add", {"left": 1}).duration_ms == 250
    assert bench(fail, clock=Elapses(0.25)).outcome("fail", {"how": "value"}).duration_ms == 250


def test_sync_calls_overlap_in_threads_of_their_own(bench: Bench) -> None:
    barrier = threading.Barrier(4)

    @tool
    def meet() -> str:
        barrier.wait(PATIENCE)
        return threading.current_thread().name

    calls = bench(meet)
    with ThreadPoolExecutor(4) as pool:
        names = {future.result() for future in [pool.submit(calls.value, "meet") for _ in range(4)]}
    assert len(names) == 4
    assert all(name.startswith("lash-tool-") for name in names)


def test_async_calls_overlap_on_one_loop(bench: Bench) -> None:
    arrived: list[int] = []
    all_there = asyncio.Event()

    @tool
    async def meet() -> int:
        arrived.append(threading.get_ident())
        if len(arrived) == 4:
            all_there.set()
        await all_there.wait()
        return threading.get_ident()

    calls = bench(meet)
    with ThreadPoolExecutor(4) as pool:
        threads = {future.result() for future in [pool.submit(calls.value, "meet") for _ in range(4)]}
    assert len(threads) == 1
    assert threads == set(arrived)


def test_threads_are_used_again(bench: Bench) -> None:
    @tool
    def where() -> int:
        return threading.get_ident()

    calls = bench(where, max_threads=1)
    assert len({calls.value("where") for _ in range(5)}) == 1
