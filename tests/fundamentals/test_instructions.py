"""Instructions may be a function of the turn: it is called once, and its text is recorded like any other outcome."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SUPPORT, SmallRuntime, says, start

RENDERED = replace(SUPPORT, instructions=None)


def test_rendered_instructions_are_the_same_on_every_run_of_the_turn() -> None:
    """A function that reads the clock or a database may answer differently each time; the turn asks it once."""
    days, asked = count(1), list[str]()

    def model(request: ModelRequest) -> ModelResponse:
        asked.append(request.system)
        return says("Hi.")

    def today() -> str:
        return f"Today is day {next(days)}."

    first = SmallRuntime(model, instructions=today)
    first.run(start("Hello", agent=RENDERED))
    # The model's outcome is lost, the rendered text is not.
    journal = {key: outcome for key, outcome in first.journal.items() if "llm_call" not in key}
    SmallRuntime(model, instructions=today, journal=journal).run(start("Hello", agent=RENDERED))

    assert asked == ["Today is day 1.", "Today is day 1."]
