"""The scene that `lash-tasks demo` plays: a conversation, a worker killed in the middle of a turn, another one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lash_tasks.cli.demo_stack import AGENT, DATABASE, MODEL_CALLS, PAUSE, TOOL_RUNS
from lash_tasks.cli.output import Output
from lash_tasks.client import Client
from lash_tasks.clock import Clock, SystemClock
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import LashError, ResultTimeout
from lash_tasks.settings import Settings

SESSION = "demo"
PATIENCE_SECONDS = 25.0


class Scene:
    """One performance in a directory of its own."""

    def __init__(self, output: Output, directory: Path) -> None:
        self._output = output
        self._directory = directory
        self._clock: Clock = SystemClock()

    def play(self) -> dict[str, bool]:
        """Act it out; what held, by name."""
        with self._stack() as first:
            self._until(self._registered, "the stack to start")
            with self._client() as client:
                self._say("A stack runs as a child process: SQLite, one worker, a scripted model.")
                hello = client.send(SESSION, "Hello!", agent=AGENT).result(timeout=PATIENCE_SECONDS)
                self._quote("Hello!", hello.text)
                order = 'Where is it? call lookup_order {"order_id": "12"}'
                shipped = client.send(SESSION, order, agent=AGENT).result(timeout=PATIENCE_SECONDS)
                self._quote(order, shipped.text)

                (self._directory / PAUSE).touch()
                last = 'And the other? call lookup_order {"order_id": "13"}'
                receipt = client.send(SESSION, last, agent=AGENT, idempotency_key="the-other-order")
                self._until(
                    lambda: self._lines(MODEL_CALLS)[f"second call for: {last}"] == 1, "the turn's second model call"
                )
                first.send_signal(signal.SIGKILL)
                first.wait()
                self._say("The child is killed (SIGKILL) in the middle of a turn: one model call and one tool run are")
                self._say("recorded, the second model call is on its way.")
                (self._directory / PAUSE).unlink()
                again = client.send(SESSION, last, agent=AGENT, idempotency_key="the-other-order")
        with self._stack(), self._client() as client:
            self._say("Another child starts on the same file.")
            finished = client.receipt(SESSION, input_id=receipt.input_id).result(timeout=PATIENCE_SECONDS)
            self._quote(last, finished.text)
            turns = client.stores.sessions.turns(SessionId(SESSION))
            calls, runs = self._lines(MODEL_CALLS), self._lines(TOOL_RUNS)
            return {
                "every message was answered once, in order": [turn.result.text for turn in turns if turn.result]
                == [hello.text, shipped.text, finished.text],
                "the interrupted turn finished": finished.ok and "13" in finished.text,
                "its recorded model call was not paid again": calls[f"first call for: {last}"] == 1,
                "its recorded tool run was not done again": sum(n for line, n in runs.items() if "(13)" in line) == 1,
                "only the call that was in flight was sent again": calls[f"second call for: {last}"] == 2,
                "the message sent twice with one key was stored once": not again.created,
                "nothing is left waiting": not client.stores.queue.waiting(),
            }

    @contextmanager
    def _stack(self) -> Iterator[subprocess.Popen[bytes]]:
        arguments = [sys.executable, "-m", "lash_tasks.cli.demo_stack", str(self._directory)]
        log = (self._directory / "stack.log").open("ab")
        child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()
            log.close()

    def _client(self) -> Client:
        return Client(Settings(database_url=f"sqlite:///{self._directory / DATABASE}"))

    def _registered(self) -> bool:
        try:
            with self._client() as client:
                return AGENT in client.agents()
        except LashError:
            return False

    def _lines(self, name: str) -> Counter[str]:
        path = self._directory / name
        return Counter(path.read_text(encoding="utf-8").splitlines() if path.exists() else [])

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline, never = self._clock.monotonic() + PATIENCE_SECONDS, threading.Event()
        with self._output.waiting(f"waiting for {what}"):
            while not condition():
                if self._clock.monotonic() > deadline:
                    log = (self._directory / "stack.log").read_text(encoding="utf-8", errors="replace")
                    self._output.note(log[-4000:])
                    raise ResultTimeout(SESSION, PATIENCE_SECONDS)
                self._clock.wait(never, 0.05)

    def _say(self, sentence: str) -> None:
        self._output.note(sentence)

    def _quote(self, said: str, answered: str) -> None:
        self._output.note(f"  user   {said}\n  agent  {answered}")
