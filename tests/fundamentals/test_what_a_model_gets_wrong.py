"""A model that gets a call wrong is told so and may try again; one that says nothing ends the turn."""

from __future__ import annotations

import pytest

from lash_tasks.domain.messages import ToolResultPart
from lash_tasks.domain.turns import StopKind, finished, stopped
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SmallRuntime, call, calls, says, start


def never_run(**_: object) -> str:
    raise AssertionError("a call that cannot be made is not made")


def calls_then_quotes(tool: str, arguments: str) -> SmallRuntime:
    """A runtime whose model makes one call and answers with what came back."""

    def model(request: ModelRequest) -> ModelResponse:
        result = request.messages[-1].parts[0]
        return says(result.text) if isinstance(result, ToolResultPart) else calls(call("a", tool, arguments))

    return SmallRuntime(model, {"lookup_order": never_run})


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"order_id": ', "is not valid JSON"),
        ("[12]", "is not a JSON object"),
        ('{"order_id": NaN}', "NaN is not JSON"),
        ('{"order_id": 1e999}', "a number is too large"),
        ('{"order_id": ' + "[" * 5000 + "]" * 5000 + "}", "is nested too deeply"),
    ],
    ids=["cut off", "a list", "NaN", "too large", "too deep"],
)
def test_arguments_that_are_no_json_object_go_back_to_the_model(arguments: str, problem: str) -> None:
    """No tool runs; the model reads what is wrong with its arguments, and the turn goes on."""
    turn = calls_then_quotes("lookup_order", arguments).run(start("Order 12?"))

    (record,) = turn.calls
    assert record.outcome.failure is not None
    assert record.outcome.failure.code == "invalid_tool_args"
    assert problem in record.outcome.failure.message
    assert record.arguments == arguments
    assert turn.outcome == finished(record.outcome.model_text())


def test_an_unknown_tool_goes_back_to_the_model_with_the_names_that_exist() -> None:
    """So that its next call can be right."""
    turn = calls_then_quotes("find_order", "{}").run(start("Order 12?"))

    assert turn.outcome == finished(
        "[Tool execution failed]\nthere is no tool 'find_order'; available tools: lookup_order, charge_card"
    )


def test_an_empty_answer_ends_the_turn_as_a_failure_of_the_provider() -> None:
    """There is nothing to show and nothing to go on with."""
    turn = SmallRuntime(lambda request: says(" \n")).run(start("Hello"))

    assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
    assert [issue.code for issue in turn.issues] == ["empty_response"]


def test_the_next_turn_can_send_back_whatever_the_model_wrote() -> None:
    """A provider would refuse the session for good over arguments that do not parse or a name it does not allow."""
    first = calls_then_quotes("functions.lookup order", "{oops").run(start("Order 12?"))
    asked: list[ModelRequest] = []

    def remember(request: ModelRequest) -> ModelResponse:
        asked.append(request)
        return says("ok")

    SmallRuntime(remember).run(start("And now?", history=first.added, turn_index=2))

    sent = asked[0].messages[1].parts[0]
    assert sent == call("a", "functions_lookup_order", "{}")
