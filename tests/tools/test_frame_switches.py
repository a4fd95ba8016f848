"""A tool that returns SwitchFrame steers its turn; what cannot be a switch fails the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lash_tasks import SwitchFrame, tool
from lash_tasks.domain.codec import decode, encode
from lash_tasks.domain.frames import FrameSwitch, Seed
from lash_tasks.domain.messages import Role, TextPart, ToolStatus
from lash_tasks.domain.turns import ToolOutcome
from tests.tools.calls import Calls
from tests.tools.conftest import Bench


def returning(bench: Bench, value: Callable[[], Any]) -> Calls:
    @tool
    def switch() -> SwitchFrame | str:
        """Go on elsewhere."""
        result: SwitchFrame | str = value()
        return result

    return bench(switch, max_result_bytes=10_000)


def test_the_recorded_outcome_carries_the_switch_and_tells_the_model_of_it(bench: Bench) -> None:
    calls = returning(bench, lambda: SwitchFrame("plan it", "plan", ["so far"], reason="plan_mode"))
    outcome = calls.outcome("switch")

    assert (outcome.status, outcome.value) == (ToolStatus.SUCCESS, {"switched_to": "plan"})
    assert outcome.control == FrameSwitch("plan", "plan it", (Seed(Role.USER, (TextPart("so far"),)),), "plan_mode")
    assert decode(ToolOutcome, encode(ToolOutcome, outcome)) == outcome


def test_a_switch_without_a_name_gets_one_that_every_attempt_of_the_call_agrees_on(bench: Bench) -> None:
    calls = returning(bench, lambda: SwitchFrame("go on"))
    first, second = calls.outcome("switch").control, calls.outcome("switch").control

    assert first is not None
    assert first == second
    assert first.frame_id.startswith("s1:frame:")
    assert first.reason == "continue_as"


def test_a_plain_result_carries_no_switch(bench: Bench) -> None:
    assert returning(bench, lambda: "done").outcome("switch").control is None


def wrong(**fields: Any) -> SwitchFrame:
    return SwitchFrame(**{"task": "go on", **fields})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"task": " "}, "task must be a text that is not blank"),
        ({"task": None}, "task must be a text that is not blank"),
        ({"frame_id": ""}, "frame_id must not be empty"),
        ({"frame_id": 7}, "frame_id must be a text, or None for one of its own"),
        ({"frame_id": "a\n"}, "frame_id must not contain control characters"),
        ({"reason": ""}, "reason must not be empty"),
        ({"reason": None}, "reason must be a text"),
        ({"initial_messages": [1]}, "initial_messages [0] must be a text, a Message or a mapping of role and text"),
        ({"initial_messages": "text"}, "initial_messages must be a list of messages, not str"),
    ],
)
def test_a_switch_that_cannot_be_used_fails_the_call(bench: Bench, fields: dict[str, Any], problem: str) -> None:
    failure = returning(bench, lambda: wrong(**fields)).failure("switch")

    assert failure.code == "tool_failed"
    assert failure.message == f"tool switch returned a SwitchFrame whose {problem}"


def test_a_switch_is_as_bounded_as_any_result(bench: Bench) -> None:
    failure = returning(bench, lambda: SwitchFrame("go on", initial_messages=["x" * 10_000])).failure("switch")
    assert "bytes of JSON and may return at most 10000" in failure.message
