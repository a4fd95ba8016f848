"""A `lash-tasks` command that goes on until it is told to stop, and what it prints meanwhile."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cli.calling import start

PATIENCE = 30.0

SHOP = '''
from lash_tasks import Agent, Lash, tool

print("a line that the application prints")

@tool
def lookup_order(order_id: str) -> dict[str, str]:
    """Look an order up by its id."""
    print("a line that the tool prints", flush=True)
    return {"order_id": order_id, "state": "shipped"}

lash = Lash([Agent("support", "scripted:echo", tools=[lookup_order])])
no_lash = "only text"
'''


class RunningCommand:
    """A command with `--json`. Its stdout is read as it comes; its stderr is in `log`."""

    def __init__(self, arguments: list[str], directory: Path, variables: Mapping[str, str]) -> None:
        self.log = directory / f"{arguments[-1]}.log"
        self._process = start([*arguments, "--json"], self.log, directory, variables)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def next_line(self) -> Any:
        """The next line of stdout, as JSON."""
        line = self._lines.get(timeout=PATIENCE)
        assert line is not None, f"the command ended:\n{self.errors()[-4000:]}"
        return json.loads(line)

    def rest(self) -> list[str]:
        """What else was on stdout, once the command has ended."""
        self._reader.join(PATIENCE)
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        return [line for line in lines if line is not None]

    def errors(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, number: signal.Signals) -> int:
        """Ask it to stop; its exit code."""
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(PATIENCE)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def running(*arguments: str, directory: Path, **variables: str) -> Iterator[RunningCommand]:
    """The command in `directory`, killed when the context ends if the test has not ended it."""
    command = RunningCommand(list(arguments), directory, variables)
    try:
        yield command
    finally:
        command.kill()
