"""What the model reads of a tool call's outcome."""

from __future__ import annotations

import pytest

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.messages import ToolStatus
from lash_tasks.domain.turns import CALL_WITHOUT_RESULT, FailureClass, ToolOutcome, tool_cancelled, tool_failure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("shipped", "shipped"),
        ("", ""),
        ('"quoted"', '"quoted"'),
        (None, "null"),
        (True, "true"),
        (12, "12"),
        ([], "[]"),
        ({"b": "é", "a": [1, 2]}, '{"a":[1,2],"b":"é"}'),
    ],
)
def test_text_is_shown_as_it_is_and_everything_else_as_json(value: JsonValue, text: str) -> None:
    assert ToolOutcome(ToolStatus.SUCCESS, value).model_text() == text


def test_a_failure_has_a_headline() -> None:
    outcome = tool_failure(FailureClass.TIMEOUT, "tool_timeout", "it took longer than 5 s", 5000)

    assert outcome.model_text() == "[Tool execution failed]\nit took longer than 5 s"
    assert (outcome.status, outcome.duration_ms) == (ToolStatus.FAILURE, 5000)


def test_a_cancelled_call_has_another() -> None:
    assert tool_cancelled().model_text() == "[Tool execution cancelled]\n" + CALL_WITHOUT_RESULT


def test_a_failure_without_a_reason_is_still_one() -> None:
    assert ToolOutcome(ToolStatus.FAILURE).model_text() == "[Tool execution failed]\n"
    assert ToolOutcome(ToolStatus.CANCELLED).model_text() == "[Tool execution cancelled]\n"
