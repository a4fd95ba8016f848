"""Input may join a running turn at a checkpoint: behind a tool round, or when the model has answered."""

from __future__ import annotations

from lash_tasks.domain.messages import Origin, Role, ToolResultPart, text_of
from lash_tasks.domain.turns import finished
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SmallRuntime, arrives, call, calls, says, start


def answers_the_last(request: ModelRequest) -> ModelResponse:
    text = getattr(request.messages[-1].parts[-1], "text", "")
    return says(f"About {text}")


def test_input_that_joins_after_the_answer_is_answered_too() -> None:
    """The model sees its first answer and the follow-up behind it, and answers again in the same turn."""
    runtime = SmallRuntime(answers_the_last, waiting=[arrives("batch-2", "order 13")])

    turn = runtime.run(start("order 12"))

    assert [text_of(message) for message in turn.added] == [
        "order 12",
        "About order 12",
        "order 13",
        "About order 13",
    ]
    assert turn.outcome == finished("About order 13")


def test_input_that_joins_after_a_tool_round_is_read_with_the_results() -> None:
    """The next model call sees the results and then the new input."""

    def model(request: ModelRequest) -> ModelResponse:
        if any(isinstance(part, ToolResultPart) for message in request.messages for part in message.parts):
            return answers_the_last(request)
        return calls(call("a", "lookup_order", "{}"))

    runtime = SmallRuntime(model, {"lookup_order": lambda: "shipped"}, waiting=[arrives("batch-2", "order 13")])

    turn = runtime.run(start("order 12"))

    assert [message.role for message in turn.added] == [
        Role.USER,
        Role.ASSISTANT,
        Role.USER,
        Role.USER,
        Role.ASSISTANT,
    ]
    assert turn.outcome == finished("About order 13")


def test_the_turn_owns_what_joined_it() -> None:
    """The message says which input it was, and the turn will commit that input together with its own."""
    runtime = SmallRuntime(answers_the_last, waiting=[arrives("batch-2", "order 13")])

    turn = runtime.run(start("order 12"))

    assert turn.added[2].origin == Origin("injected", batch_id="batch-2")
    assert turn.joined == ("batch-2",)


def test_a_replay_takes_no_second_input() -> None:
    """What joined is part of the checkpoint's record. Input that came later waits for its own turn."""
    runtime = SmallRuntime(answers_the_last, waiting=[arrives("batch-2", "order 13")])
    first = runtime.run(start("order 12"))

    later = SmallRuntime(answers_the_last, journal=runtime.journal, waiting=[arrives("batch-3", "order 14")])
    second = later.run(start("order 12"))

    assert second.added == first.added
    assert [item.batch_id for item in later.waiting] == ["batch-3"]
