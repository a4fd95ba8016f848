"""A worker may die at every named crash point of a turn, at each passing: what comes out is the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lash_tasks import SwitchFrame, ToolContext, tool
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.providers.scripted import RULES, last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.settings import Settings
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.definition import Tool
from tests.turns.models import Model, call_number, calls, out_of_order, says
from tests.turns.stage import DieAt, Stage, agent, emptied

TEXTS = (
    'two at once: call weather {"city": "Oslo"} call weather {"city": "Rome"}',
    "only words",
)
REPEATED_EFFECT = {CrashPoint.AFTER_PERFORM}
"""Where an effect was done and not recorded: there, and only there, it is done again."""


Make = Callable[[Tool[..., object]], tuple[Agent, Model]]


def plain(weather: Tool[..., object]) -> tuple[Agent, Model]:
    return agent(weather), Model()


def typed_with_a_fallback(weather: Tool[..., object]) -> tuple[Agent, Model]:
    """The first model fails, the second one's first answer does not fit."""

    def rule(request: ModelRequest) -> ModelResponse:
        if "does not fit" in last_user_text(request):
            return says('{"answer": 1}')
        return RULES["echo"](request)

    wanted = agent(weather, model="test:down", fallbacks=["test:test"], output_type=dict[str, int])
    return wanted, Model(rule, before=out_of_order)


def switching_frames(weather: Tool[..., object]) -> tuple[Agent, Model]:
    """The round ends with a switch, so the answer is given in another frame."""

    @tool
    def go_on(ctx: ToolContext) -> SwitchFrame:
        """Go on elsewhere."""
        return SwitchFrame("tell it", "rain", initial_messages=["it rains"])

    def rule(request: ModelRequest) -> ModelResponse:
        if last_user_text(request) == TEXTS[0] and call_number(request) == 1:
            return calls(("weather", '{"city": "Oslo"}'), ("weather", '{"city": "Rome"}'), ("go_on", "{}"))
        return RULES["echo"](request)

    return agent(weather, go_on), Model(rule)


class Run:
    """One run of the two turns with a death somewhere, and all that can be seen of it."""

    def __init__(self, settings: Settings, die_at: DieAt, make: Make) -> None:
        lock = threading.Lock()
        self.tools: Counter[str] = Counter()
        self.keys: set[tuple[str, str]] = set()

        @tool
        def weather(city: str, ctx: ToolContext) -> str:
            """The weather in a city."""
            with lock:
                self.tools[city] += 1
                self.keys.add((city, ctx.idempotency_key))
            return f"rain in {city}"

        served, self.model = make(weather)
        with Stage(settings=emptied(settings), agents=[served], model=self.model) as stage:
            for text in TEXTS:
                stage.send(text)
            stage.run_all(die_at)
            self.passed = die_at.passed
            self.transcript = stage.transcript()
            self.results = [_without_times(turn.result) for turn in stage.turns()]
            self.rows = stage.row_counts()


def _without_times(result: Any) -> Any:
    said = (result.outcome, result.assistant_output, result.output, result.errors)
    return (result.turn_index, said, result.token_usage, _calls(result.tool_calls))


def _calls(calls: Any) -> list[tuple[str, Any, Any]]:
    return [(call.call_id, call.arguments, call.outcome.value) for call in calls]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [plain, typed_with_a_fallback, switching_frames])
def test_a_death_at_any_passing_of_any_crash_point_changes_nothing_but_time(settings: Settings, make: Make) -> None:
    whole = Run(settings, DieAt(), make)
    assert len(whole.results) == len(TEXTS) + (make is switching_frames)
    never_passed = set(CrashPoint) - set(whole.passed) - {CrashPoint.AFTER_BEGUN, CrashPoint.AFTER_CHECKPOINT}
    assert not never_passed

    for point, passings in whole.passed.items():
        for count in range(1, passings + 1):
            died = Run(settings, DieAt(point, count), make)
            where = f"{point} passing {count}"
            assert died.transcript == whole.transcript, where
            assert died.results == whole.results, where
            assert died.rows == whole.rows, where
            assert len(died.keys) == len(whole.keys), "a call changed its idempotency key"
            again = (died.model.asked - whole.model.asked).total() + (died.tools - whole.tools).total()
            # An answer is also checked again and a switch asked for again, which costs nobody anything: not counted.
            uncounted = make is not plain and point is CrashPoint.AFTER_PERFORM
            assert again == (point in REPEATED_EFFECT) or (uncounted and again == 0), where
