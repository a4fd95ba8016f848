"""An embedded application that leaves a line for every model call and tool run.

`python -m tests.embedded.application DIRECTORY` runs it until its input closes or it is killed. While the file `hold`
is in the directory, the tool `slow` does not return. A lease lives for minutes: whatever is recovered sooner did not
wait for one.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from lash_tasks import Agent, Lash, ToolContext, tool
from lash_tasks.clock import SystemClock
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream
from lash_tasks.providers.scripted import ScriptedProvider, last_user_text
from lash_tasks.settings import Settings

AGENT = "worker"
LEASE_TTL = 600.0


class Model:
    """The scripted model; `calls` holds when each call came (epoch milliseconds) and for which text."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._scripted = ScriptedProvider()
        self.calls: list[tuple[int, str]] = []

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        self.calls.append((SystemClock().now_ms(), last_user_text(call.request)))
        note(self._directory / "model-calls", last_user_text(call.request))
        return self._scripted.complete(call, stream, interrupt)

    def close(self) -> None:
        self._scripted.close()


def application(directory: Path, model: Model | None = None) -> Lash:
    """An application on `directory`/lash.db."""

    @tool
    def slow(ctx: ToolContext) -> str:
        """Take as long as the test wants."""
        note(directory / "tool-runs", f"slow {ctx.idempotency_key}")
        never = threading.Event()
        while (directory / "hold").exists() and not ctx.cancelled:
            never.wait(0.01)
        return "done"

    @tool
    async def soon(ctx: ToolContext) -> str:
        """Return at once, from the event loop."""
        note(directory / "tool-runs", f"soon {ctx.idempotency_key}")
        return "done"

    settings = Settings(database_url=f"sqlite:///{directory / 'lash.db'}", lease_ttl=LEASE_TTL)
    agent = Agent(AGENT, "watched:echo", tools=[slow, soon])
    return Lash([agent], providers={"watched": model or Model(directory)}, embedded=True, settings=settings)


def note(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def lines(path: Path) -> list[str]:
    """What has been noted so far."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    with application(Path(sys.argv[1])):
        sys.stdin.read()
