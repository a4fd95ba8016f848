"""The control: the same turn with nothing durable around it, in a process of its own.

Each thread does, turn after turn: enqueue, claim, model call, record, tool, record, model call, record, result. Every
step is one bare psycopg transaction; there is no lease, no replay and no Celery. The HTTP client is a
worker's: an `httpx.Client` per thread, one SSL context, the answer read as a stream.

`python -m lash_tasks.bench.control` reads jobs, lines of JSON, until its input ends. To each it says `ready`; at the
next line it runs, at the one after it stops and prints the end (seconds of the monotonic clock) and the length of every
turn.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from lash_tasks.bench import workload
from lash_tasks.clock import SystemClock

CONNECTIONS = 10
"""At most as many as a worker's pool keeps: nobody holds one while the model answers."""

TABLES = """
CREATE TABLE IF NOT EXISTS control_queue (
    id bigserial PRIMARY KEY, session_id text NOT NULL, body text NOT NULL, claimed_at timestamptz);
CREATE TABLE IF NOT EXISTS control_records (
    turn_id bigint NOT NULL, step int NOT NULL, outcome text NOT NULL, PRIMARY KEY (turn_id, step));
CREATE TABLE IF NOT EXISTS control_results (
    turn_id bigint PRIMARY KEY, session_id text NOT NULL, answer text NOT NULL, committed_at timestamptz NOT NULL)
"""
ENQUEUE = "INSERT INTO control_queue (session_id, body) VALUES (%s, %s) RETURNING id"
CLAIM = "UPDATE control_queue SET claimed_at = clock_timestamp() WHERE id = %s AND claimed_at IS NULL RETURNING body"
RECORD = "INSERT INTO control_records (turn_id, step, outcome) VALUES (%s, %s, %s)"
RESULT = "INSERT INTO control_results VALUES (%s, %s, %s, clock_timestamp())"


@dataclass(frozen=True, slots=True)
class Job:
    """What one control process does."""

    database_url: str
    endpoint_url: str
    model: str
    threads: int


class Control:
    """The turns of one process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._ssl_context = httpx.create_ssl_context()
        self._connections: queue.LifoQueue[psycopg.Connection[tuple[Any, ...]]] = queue.LifoQueue()
        for _ in range(min(CONNECTIONS, job.threads)):
            self._connections.put(psycopg.connect(job.database_url))
        self.turns: list[tuple[float, float]] = []
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(job.threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        while not self._connections.empty():
            self._connections.get().close()

    def _work(self, number: int) -> None:
        session = f"control-{number}"
        with httpx.Client(verify=self._ssl_context, trust_env=False, timeout=60) as client:
            while not self._stop.is_set():
                started = self._clock.monotonic()
                self._turn(client, session)
                ended = self._clock.monotonic()
                self.turns.append((ended, ended - started))

    def _turn(self, client: httpx.Client, session: str) -> None:
        (turn_id,) = self._step(ENQUEUE, session, workload.USER_TEXT)
        (text,) = self._step(CLAIM, turn_id)
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": workload.INSTRUCTIONS},
            {"role": "user", "content": text},
        ]
        call = self._ask(client, messages)
        self._step(RECORD, turn_id, 1, json.dumps(call))
        arguments = json.loads(call["tool_calls"][0]["function"]["arguments"])
        found = json.dumps(workload.look_up(**arguments))
        self._step(RECORD, turn_id, 2, found)
        messages += [call, {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": found}]
        answer = self._ask(client, messages)
        self._step(RECORD, turn_id, 3, json.dumps(answer))
        self._step(RESULT, turn_id, session, answer["content"])

    def _step(self, statement: str, *values: object) -> tuple[Any, ...]:
        """One transaction. The row that it returns, if it returns one."""
        with self._connection() as connection, connection.transaction():
            cursor = connection.execute(statement, values)
            return (cursor.fetchone() or ()) if cursor.description else ()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        connection = self._connections.get()
        try:
            yield connection
        finally:
            self._connections.put(connection)

    def _ask(self, client: httpx.Client, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """One model call; the message that its stream adds up to."""
        body = {
            "model": self._job.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [workload.tool_schema()],
        }
        text, calls = "", dict[int, dict[str, Any]]()
        with client.stream("POST", f"{self._job.endpoint_url}/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    delta = choice["delta"]
                    text += delta.get("content") or ""
                    for part in delta.get("tool_calls", ()):
                        _add(calls, part)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        return {**message, "tool_calls": list(calls.values())} if calls else message


def _add(calls: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    if part["index"] not in calls:
        calls[part["index"]] = {"id": part["id"], "type": "function", "function": {**part["function"]}}
    else:
        calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]


def main() -> None:
    while line := sys.stdin.readline():
        control = Control(Job(**json.loads(line)))
        say("ready")
        if sys.stdin.readline():
            control.start()
            sys.stdin.readline()
        control.stop()
        say(control.turns)


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
