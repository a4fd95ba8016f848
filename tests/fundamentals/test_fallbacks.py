"""Another model may answer where the first cannot: each try is recorded by itself, so a resume knows who failed."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.machine.state import Turn
from tests.fundamentals.small_runtime import SUPPORT, SmallRuntime, says, start

AGENT = replace(SUPPORT, model="big:one", fallbacks=("big:two", "small:one"))


def model(request: ModelRequest) -> ModelResponse:
    return says("Shipped.")


def answer(runtime: SmallRuntime) -> Turn:
    return runtime.run(start("Order 12?", agent=AGENT))


def test_the_next_model_is_asked_the_same() -> None:
    """The failure stays among the turn's issues, though the turn is answered."""
    turn = answer(SmallRuntime(model, broken={"big:one", "big:two"}))

    assert turn.outcome is not None
    assert turn.outcome.type == "finished"
    assert [issue.message for issue in turn.issues] == [
        "LLM error (big:one): out of order",
        "LLM error (big:two): out of order",
    ]


def test_a_resume_asks_none_of_them_again() -> None:
    first = SmallRuntime(model, broken={"big:one"})
    whole = answer(first)

    def nobody(request: ModelRequest) -> ModelResponse:
        raise AssertionError("asked again")

    assert answer(SmallRuntime(nobody, journal=first.journal)) == whole


def test_a_turn_whose_models_all_fail_stops() -> None:
    turn = answer(SmallRuntime(model, broken=set(AGENT.models)))

    assert turn.outcome is not None
    assert turn.outcome.type == "stopped"
    assert len(turn.issues) == 3
