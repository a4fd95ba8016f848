"""The driver: sends input with `lash_tasks.Client` and watches the answers, in a process of its own.

`python -m lash_tasks.bench.driver` reads jobs, lines of JSON, until its input ends, and answers in lines of JSON:

* `load`: a closed loop. Every session has one input outstanding and gets the next as soon as its turn is committed,
  which one statement for all sessions asks every 25 ms; four clients with four threads each send. It says again and
  again how many turns are committed; at the next line it stops sending and says how often it asked.
* `one_by_one`: every line up to `null` names sessions; each gets one input, the next as soon as the one before has its
  answer. It answers with the beginning and the end of every turn by the monotonic clock: from the call of `send` to the
  return of `receipt.result()`, which a commit wakes through Redis.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psycopg

from lash_tasks.bench import workload
from lash_tasks.client import Client
from lash_tasks.clock import SystemClock
from lash_tasks.settings import Settings

CLIENTS = 4
SENDERS = 4
"""Threads of each client. A client rings one doorbell at a time, so one client would not keep the workers busy."""
POLL_SECONDS = 0.025
REPORT_SECONDS = 0.25
RESULT_SECONDS = 60.0
COMMITTED = "SELECT id, turn_index FROM lash_sessions WHERE id = ANY(%s)"

_clock = SystemClock()


class Load:
    """A closed loop over some sessions."""

    def __init__(
        self, clients: Sequence[Client], connection: psycopg.Connection[Any], agent: str, sessions: Sequence[str]
    ) -> None:
        self._clients = clients
        self._connection = connection
        self._agent = agent
        self._sessions = list(sessions)
        self._due: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._polls = 0
        self._failure: BaseException | None = None

    def run(self) -> dict[str, float]:
        """Send until the next line of input, or its end."""
        senders = [
            threading.Thread(target=self._send, args=(client,)) for client in self._clients for _ in range(SENDERS)
        ]
        before = self._committed()
        answered = dict.fromkeys(self._sessions, 0) | before
        start = sum(answered.values())
        for session in self._sessions:
            self._due.put(session)
        for thread in (*senders, threading.Thread(target=self._wait_for_line, daemon=True)):
            thread.start()
        started = report_at = _clock.monotonic()
        while not _clock.wait(self._stop, POLL_SECONDS):
            for session, turns in self._committed().items():
                if turns > answered[session]:
                    answered[session] = turns
                    self._due.put(session)
            if _clock.monotonic() >= report_at:
                report_at += REPORT_SECONDS
                say({"turns": sum(answered.values()) - start})
        for _ in senders:
            self._due.put(None)
        for thread in senders:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return {"polls": self._polls, "seconds": _clock.monotonic() - started}

    def _committed(self) -> dict[str, int]:
        self._polls += 1
        return dict(self._connection.execute(COMMITTED, (self._sessions,)).fetchall())

    def _send(self, client: Client) -> None:
        while (session := self._due.get()) is not None:
            try:
                client.send(session, workload.USER_TEXT, agent=self._agent)
            except Exception as error:
                self._failure = error
                self._stop.set()
                return

    def _wait_for_line(self) -> None:
        sys.stdin.readline()
        self._stop.set()


def one_by_one(client: Client, agent: str) -> None:
    """Answer lines until one is `null`."""
    while (sessions := hear()) is not None:
        say([_turn(client, session, agent) for session in sessions])


def _turn(client: Client, session: str, agent: str) -> tuple[float, float]:
    started = _clock.monotonic()
    turn = client.send(session, workload.USER_TEXT, agent=agent).result(timeout=RESULT_SECONDS)
    ended = _clock.monotonic()
    if turn.text != workload.ANSWER:
        raise RuntimeError(f"a turn of {session} was answered with {turn.text!r}: {turn.errors}")
    return started, ended


def hear() -> Any:
    """The next line; None at the end of the input."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    settings = Settings.from_environment()
    url = settings.require_database_url().replace("postgresql+psycopg://", "postgresql://", 1)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(settings)) for _ in range(CLIENTS)]
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        while (job := hear()) is not None:
            if job.pop("kind") == "load":
                say(Load(clients, connection, **job).run())
            else:
                one_by_one(clients[0], **job)


if __name__ == "__main__":
    main()
