"""A tool round: the model calls tools, reads what they returned, and answers."""

from __future__ import annotations

from lash_tasks.domain.messages import Role, ToolCallPart, ToolResultPart, ToolStatus
from lash_tasks.domain.turns import finished
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SmallRuntime, call, calls, says, start


def lookup_order(order_id: str) -> dict[str, str]:
    if order_id == "13":
        raise LookupError("no such order")
    return {"order_id": order_id, "state": "shipped"}


def look_up_then_quote(request: ModelRequest) -> ModelResponse:
    """Call the tool for both orders, then answer with what it returned."""
    results = [part for part in request.messages[-1].parts if isinstance(part, ToolResultPart)]
    if results:
        return says(" and ".join(result.text for result in results))
    return calls(
        call("call_a", "lookup_order", '{"order_id": "12"}'), call("call_b", "lookup_order", '{"order_id": "13"}')
    )


def test_the_model_reads_the_results_in_the_order_of_its_calls() -> None:
    """A result is shown as JSON; what a tool raises is shown as a failure, and the turn goes on."""
    turn = SmallRuntime(look_up_then_quote, {"lookup_order": lookup_order}).run(start("Orders 12 and 13?"))

    assert turn.outcome == finished(
        '{"order_id":"12","state":"shipped"} and [Tool execution failed]\nLookupError: no such order'
    )


def test_a_round_is_two_messages_of_the_transcript() -> None:
    """The calls stand in a message of the assistant, all their results in the user message behind it."""
    turn = SmallRuntime(look_up_then_quote, {"lookup_order": lookup_order}).run(start("Orders 12 and 13?"))
    asked, answered = turn.added[1:3]

    assert (asked.role, answered.role) == (Role.ASSISTANT, Role.USER)
    assert [part.call_id for part in asked.parts if isinstance(part, ToolCallPart)] == ["call_a", "call_b"]
    assert [(part.call_id, part.status) for part in answered.parts if isinstance(part, ToolResultPart)] == [
        ("call_a", ToolStatus.SUCCESS),
        ("call_b", ToolStatus.FAILURE),
    ]


def test_every_call_of_a_turn_has_an_id_of_its_own() -> None:
    """Small models repeat ids. Each call is told apart, so that each result finds its call."""

    def repeats_itself(request: ModelRequest) -> ModelResponse:
        if isinstance(request.messages[-1].parts[0], ToolResultPart):
            return says("done")
        return calls(
            call("call_0", "lookup_order", '{"order_id": "1"}'), call("call_0", "lookup_order", '{"order_id": "2"}')
        )

    turn = SmallRuntime(repeats_itself, {"lookup_order": lookup_order}).run(start("Orders 1 and 2?"))

    assert [(record.call_id, record.arguments) for record in turn.calls] == [
        ("call_0", {"order_id": "1"}),
        ("call_0#2", {"order_id": "2"}),
    ]
