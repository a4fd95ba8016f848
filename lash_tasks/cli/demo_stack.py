"""The child of `lash-tasks demo`: an embedded stack with one agent, whose every model call and tool run leaves a line.

`python -m lash_tasks.cli.demo_stack DIRECTORY` runs it on DIRECTORY/lash.db until it is killed or its input closes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lash_tasks.app import Lash
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.ports import Interrupt, ModelCall, ModelStream
from lash_tasks.providers.scripted import ScriptedProvider, last_user_text
from lash_tasks.settings import Settings
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import tool

AGENT = "guide"
DATABASE = "lash.db"
MODEL_CALLS = "model-calls.log"
TOOL_RUNS = "tool-runs.log"
PAUSE = "pause"
"""While this file exists the second model call of a turn does not return."""


class WatchedModel:
    """The scripted model, with a line for every call before it is answered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._model = ScriptedProvider()

    def complete(self, call: ModelCall, stream: ModelStream, interrupt: Interrupt) -> ModelResponse:
        after_tools = any(part.type == "tool_result" for part in call.request.messages[-1].parts)
        which = "second" if after_tools else "first"
        note(self._directory / MODEL_CALLS, f"{which} call for: {last_user_text(call.request)}")
        while after_tools and (self._directory / PAUSE).exists():
            if interrupt.wait(0.05):
                interrupt.check()
        return self._model.complete(call, stream, interrupt)

    def close(self) -> None:
        self._model.close()


def note(path: Path, line: str) -> None:
    """Append one line, durably: the process may be killed right after."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def application(directory: Path) -> Lash:
    """The demo's application on `directory`."""

    @tool
    def lookup_order(order_id: str, ctx: ToolContext) -> dict[str, str]:
        """Look an order up by its id."""
        note(directory / TOOL_RUNS, f"lookup_order({order_id}) with idempotency key {ctx.idempotency_key}")
        return {"order_id": order_id, "state": "shipped"}

    agent = Agent(name=AGENT, model="watched:echo", instructions="Answer briefly.", tools=[lookup_order])
    settings = Settings(database_url=f"sqlite:///{directory / DATABASE}")
    return Lash(agents=[agent], providers={"watched": WatchedModel(directory)}, embedded=True, settings=settings)


def main() -> None:
    with application(Path(sys.argv[1])):
        sys.stdin.read()


if __name__ == "__main__":
    main()
