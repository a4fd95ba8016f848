"""Code that changed under a running turn is noticed: what is asked must be what was recorded."""

from __future__ import annotations

from lash_tasks.machine.effects import CallModel, ModelReturned, RunTools
from lash_tasks.machine.requests import ModelOutcome
from lash_tasks.machine.turn import advance
from tests.fundamentals.small_runtime import call, calls, start


def charge(arguments: str) -> RunTools:
    """The tool round of a turn whose model asked to charge a card."""
    turn, _ = start("Charge me.")
    _, order = advance(turn, ModelReturned(ModelOutcome(calls(call("a", "charge_card", arguments)))))
    assert isinstance(order, RunTools)
    return order


def test_the_same_request_matches_its_record() -> None:
    """The order in which a model wrote the fields of its arguments means nothing."""
    recorded = charge('{"order_id": "12", "cents": 100}').calls[0].envelope.to_bytes()

    assert charge('{"cents": 100, "order_id": "12"}').calls[0].envelope.mismatch(recorded) == []


def test_a_different_request_says_where_it_differs() -> None:
    """Each line names a place, what is recorded there and what is asked now."""
    recorded = charge('{"order_id": "12", "cents": 100}').calls[0].envelope.to_bytes()

    assert charge('{"order_id": "12", "cents": 900}').calls[0].envelope.mismatch(recorded) == [
        "$.request.arguments.cents: 100 -> 900"
    ]


def test_a_model_call_is_pinned_to_the_words_of_its_question() -> None:
    """Digests keep the record small, however long the conversation is."""
    _, recorded = start("Hello")
    _, wanted = start("Good morning")
    assert isinstance(recorded, CallModel)
    assert isinstance(wanted, CallModel)

    (line,) = wanted.envelope.mismatch(recorded.envelope.to_bytes())

    assert line.startswith("$.request.messages[0]: ")
