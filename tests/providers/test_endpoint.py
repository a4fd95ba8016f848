"""The counting endpoint as a process of its own, as the scenes with many workers use it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lash_tasks.clock import SystemClock
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import CallId
from lash_tasks.domain.messages import TextPart, ToolCallPart, ToolResultPart
from lash_tasks.machine.requests import ModelMessage, ModelResponse
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import ModelEndpoint, Stalling, converse
from tests.providers.parts import LOOKUP, RecordingStream, answered, call_of, openai_at, said
from tests.services import free_port, wait_until


@dataclass(frozen=True)
class Alone:
    base_url: str
    log: Path

    def lines(self) -> list[JsonObject]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    """An endpoint process, listening."""
    port, log = free_port(), tmp_path / "requests.jsonl"
    command = [sys.executable, "-m", "tests.endpoint", "--port", str(port), "--log", str(log), "--delay-ms", "1"]
    with subprocess.Popen(command) as process:
        wait_until(log.exists, 20, "the endpoint to start")
        yield Alone(f"http://127.0.0.1:{port}/v1", log)
        process.terminate()
        assert process.wait(20) == 0


def ask(base_url: str, *messages: ModelMessage, interrupt: TurnInterrupt | None = None) -> ModelResponse:
    provider = openai_at(base_url, clock=SystemClock())
    try:
        call = call_of(messages, tools=(LOOKUP,))
        return provider.complete(call, RecordingStream(), interrupt or TurnInterrupt(SystemClock()))
    finally:
        provider.close()


def test_a_turn_is_two_requests_that_the_log_names(alone: Alone) -> None:
    question = said(TextPart("order 12"))
    first = ask(alone.base_url, question)
    assert first.parts == (ToolCallPart(CallId("call_1"), "lookup", '{"text": "order 12"}'),)
    result = said(ToolResultPart(CallId("call_1"), "lookup", "shipped"))
    second = ask(alone.base_url, question, answered(*first.parts), result)
    assert second.parts == (TextPart("answer: order 12"),)
    assert [(line["marker"], line["call"]) for line in alone.lines()] == [("order 12", 1), ("order 12", 2)]
    assert alone.lines()[0]["at_ms"] <= alone.lines()[1]["at_ms"]


def test_a_stall_holds_the_first_asker_only() -> None:
    question = said(TextPart("order 12 [stall]"))
    with ModelEndpoint(Stalling()) as endpoint:
        interrupt = TurnInterrupt(SystemClock())

        def cancel() -> None:
            wait_until(lambda: endpoint.requests, 10, "the request")
            interrupt.set(InterruptReason.CANCELLED)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(Interrupted):
            ask(endpoint.base_url, question, interrupt=interrupt)
        canceller.join()
        wait_until(lambda: endpoint.requests[0].gone_at, 5, "the server to see the client go")
        assert isinstance(ask(endpoint.base_url, question).parts[0], ToolCallPart)


def test_arguments_fit_the_tools_schema() -> None:
    properties = {"count": {"type": "integer"}, "name": {"type": "string"}, "note": {"type": "string"}}
    tool = {"name": "order", "parameters": {"properties": properties, "required": ["count"]}}
    reply = converse({"messages": [{"role": "user", "content": "two"}], "tools": [{"function": tool}]})
    sent = b"".join(step for step in reply.steps if isinstance(step, bytes)).decode()
    assert json.dumps(json.dumps({"count": 1, "name": "two"}))[1:-1] in sent
