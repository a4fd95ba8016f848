"""A turn without tools: the model is asked once, its answer is the turn's text."""

from __future__ import annotations

from lash_tasks.domain.messages import Role, text_of
from lash_tasks.domain.turns import finished
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from tests.fundamentals.small_runtime import SmallRuntime, says, start


def echo(request: ModelRequest) -> ModelResponse:
    part = request.messages[-1].parts[-1]
    return says(f"You said: {getattr(part, 'text', '')}")


def test_the_answer_ends_the_turn() -> None:
    """An answer without tool calls is the outcome of the turn."""
    turn = SmallRuntime(echo).run(start("Hello"))

    assert turn.outcome == finished("You said: Hello")


def test_a_turn_adds_the_question_and_the_answer_to_the_transcript() -> None:
    """Message ids say which turn they are of and where in it, so that every run of the turn gives the same ids."""
    turn = SmallRuntime(echo).run(start("Hello", turn_index=4))

    assert [(message.id, message.role, text_of(message)) for message in turn.added] == [
        ("m4.0", Role.USER, "Hello"),
        ("m4.1", Role.ASSISTANT, "You said: Hello"),
    ]


def test_the_model_reads_what_was_said_before() -> None:
    """The transcript of earlier turns is part of the question."""
    asked: list[ModelRequest] = []

    def remember(request: ModelRequest) -> ModelResponse:
        asked.append(request)
        return says("Noted.")

    first = SmallRuntime(remember).run(start("I am Kim.", turn_index=1))
    SmallRuntime(remember).run(start("Who am I?", turn_index=2, history=first.added))

    assert asked[1].system == "Answer briefly."
    assert [
        (message.role, [getattr(part, "text", None) for part in message.parts]) for message in asked[1].messages
    ] == [
        (Role.USER, ["I am Kim."]),
        (Role.ASSISTANT, ["Noted."]),
        (Role.USER, ["Who am I?"]),
    ]
