"""Another model answers where the first cannot."""

from __future__ import annotations

from dataclasses import replace

from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.turns import OutputState, StopKind, stopped
from lash_tasks.ports import Interrupt, Interrupted, InterruptReason, ModelCall, ProviderFailure
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.sql import tables
from tests.turns.doubles import LiveRecorder
from tests.turns.models import Model, out_of_order
from tests.turns.stage import Stage, agent


def test_the_model_that_answered_is_in_the_usage_and_the_failure_in_the_result(stage: Stage) -> None:
    stage.agents = [agent(model="test:down", fallbacks=["test:test"])]
    stage.model = Model(before=out_of_order)
    turn = stage.answer("hello")
    assert (turn.ok, turn.text) == (True, "You said: hello")
    assert turn.assistant_output.state is OutputState.RECOVERED_FROM_ERROR
    assert [(issue.code, issue.message) for issue in turn.errors] == [("503", "LLM error (test:down): out of order")]
    assert [row["model"] for row in stage.rows(tables.usage)] == ["test:test"]
    assert len([row for row in stage.rows(tables.effects) if ":llm_call:" in row["replay_key"]]) == 2


def test_observers_are_told_to_forget_what_the_failed_model_said(stage: Stage) -> None:
    stage.agents = [agent(model="test:down", fallbacks=["test:test"])]
    stage.model = Model(before=out_of_order)
    live = LiveRecorder()

    def watch(stores: Stores) -> Stores:
        return replace(stores, live=live)

    stage.send("hello")
    stage.run(wrap=watch)
    asked = [
        event.data.get("model", event.type)
        for event in live.events
        if event.type in (ActivityType.MODEL_REQUEST_STARTED, ActivityType.STREAM_RESET)
    ]
    assert asked == ["test:down", ActivityType.STREAM_RESET, "test:test"]


def test_a_failure_that_would_come_again_is_the_end(stage: Stage) -> None:
    def refuse(call: ModelCall, interrupt: Interrupt) -> None:
        raise ProviderFailure("bad key", code="401", kind="auth", status=401)

    stage.agents = [agent(model="test:down", fallbacks=["test:test"])]
    stage.model = Model(before=refuse)
    turn = stage.answer("hello")
    assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
    assert stage.model.asked.total() == 1


def test_a_cancel_is_no_failure(stage: Stage) -> None:
    def cancelled(call: ModelCall, interrupt: Interrupt) -> None:
        raise Interrupted(InterruptReason.CANCELLED)

    stage.agents = [agent(model="test:down", fallbacks=["test:test"])]
    stage.model = Model(before=cancelled)
    turn = stage.answer("hello")
    assert turn.outcome == stopped(StopKind.CANCELLED)
    assert stage.model.asked.total() == 1


def test_a_model_that_failed_is_left_alone_for_the_rest_of_the_turn_and_asked_by_the_next(stage: Stage) -> None:
    given: list[str] = []

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        given.append(call.model)
        out_of_order(call, interrupt)

    stage.agents = [agent(model="test:down", fallbacks=["test:test"], output_type=int, max_iterations=2)]
    stage.model = Model(before=before)
    assert stage.answer("hello").outcome == stopped(StopKind.MAX_TURNS)
    assert given == ["down", "test", "test"]
    stage.answer("again")
    assert given[3:] == ["down", "test", "test"]
