"""The result of a turn: what callers read, and what is committed."""

from __future__ import annotations

from lash_tasks.domain.ids import NodeId
from lash_tasks.domain.messages import TextPart, ToolResultPart
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.assembly import assemble
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SmallRuntime, arrives, call, calls, says, start


def test_text_ok_and_calls() -> None:
    """The text is the answer, trimmed; `ok` says that there is one."""

    def model(request: ModelRequest) -> ModelResponse:
        if isinstance(request.messages[-1].parts[0], ToolResultPart):
            return says("It is shipped.  \n")
        return calls(call("a", "lookup_order", '{"order_id": "12"}'))

    turn = SmallRuntime(model, {"lookup_order": lambda order_id: "shipped"}).run(start("Order 12?"))
    result = assemble(turn, None, attempt=1).turn

    assert result.ok
    assert result.text == "It is shipped."
    assert [(record.tool, record.arguments, record.outcome.value) for record in result.tool_calls] == [
        ("lookup_order", {"order_id": "12"}, "shipped")
    ]


def test_usage_is_the_sum_of_the_model_calls() -> None:
    """Each call's usage is kept under its replay key, so that a replay counts nothing twice."""

    def model(request: ModelRequest) -> ModelResponse:
        if isinstance(request.messages[-1].parts[0], ToolResultPart):
            return ModelResponse((TextPart("done"),), TokenUsage(20, 2))
        return ModelResponse((call("a", "lookup_order", "{}"),), TokenUsage(10, 1))

    runtime = SmallRuntime(model, {"lookup_order": lambda: "shipped"})
    result = assemble(runtime.run(start("Order 12?")), None, attempt=1)

    assert result.turn.token_usage == TokenUsage(30, 3)
    assert {entry.effect_key for entry in result.usage} < set(runtime.journal)


def test_history_grows_by_what_the_turn_added() -> None:
    """The nodes to commit hang on the last node of the history, each behind the one before."""
    turn = SmallRuntime(lambda request: says("Hi.")).run(start("Hello", turn_index=2))

    nodes = assemble(turn, NodeId("m1.1"), attempt=1).nodes

    assert [(node.parent_id, node.node_id) for node in nodes] == [("m1.1", "m2.0"), ("m2.0", "m2.1")]


def test_a_turn_consumes_its_own_input_and_what_joined_it() -> None:
    """Both end with the commit of the turn."""
    runtime = SmallRuntime(lambda request: says("Hi."), waiting=[arrives("batch-9", "And me?")])

    assert assemble(runtime.run(start("Hello")), None, attempt=1).batch_ids == ("batch-1", "batch-9")


def test_the_stamp_tells_results_apart_and_runs_of_the_same_turn_not() -> None:
    """It is a digest of what was said, so a commit whose acknowledgement was lost is recognised."""

    def stamp(answer: str, attempt: int) -> str:
        return assemble(SmallRuntime(lambda request: says(answer)).run(start("Hello")), None, attempt=attempt).stamp

    assert stamp("Hi.", 1) == stamp("Hi.", 2)
    assert stamp("Hi.", 1) != stamp("Ho.", 1)
