"""Input that may enter a running turn does so at the next checkpoint: once, with its turn, whatever dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from lash_tasks import tool
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.inputs import Blob, QueuedInput
from lash_tasks.domain.messages import ImagePart, Message, Role, TextPart, text_of
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.providers.scripted import last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.protocols import CheckpointRefused, CheckpointRequest, CheckpointTaken
from lash_tasks.wiring import WorkerParts
from tests.turns.doubles import LiveRecorder, TurnsBetween
from tests.turns.models import Model, call_number, calls, says, script
from tests.turns.stage import AGENT, SESSION, SimulatedDeath, Stage, agent

TEXTS = {"go": [calls(("look", "")), says("looked")], "wait": [says("waited")], "and": [says("added")]}


class When:
    """Does something the `count`-th time that a point is passed, in whichever worker."""

    def __init__(self, point: CrashPoint, does: Callable[[], object], count: int = 1) -> None:
        self._point = point
        self._does = does
        self._left = count

    def __call__(self, point: CrashPoint) -> None:
        if point is self._point:
            self._left -= 1
            if self._left == 0:
                self._does()


def die() -> None:
    raise SimulatedDeath


def acted(stage: Stage, *, in_call: int | None = None, does: Callable[[], object] = lambda: None) -> Model:
    """Put an agent with a tool on the stage and let something happen inside the model call of this number."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == in_call:
            does()

    model = Model(script(TEXTS), before=before)
    stage.agents, stage.model = [agent(look)], model
    return model


def said(messages: list[Message] | tuple[Message, ...]) -> list[str]:
    """The texts of the transcript, tool calls and results aside."""
    return [text for message in messages if (text := text_of(message))]


def sent(model: Model, call: int) -> list[str]:
    """The texts of a model request."""
    parts = [part for message in model.requests[call - 1].messages for part in message.parts]
    return [part.text for part in parts if isinstance(part, TextPart)]


def assert_joined(stage: Stage, *texts: str, turns: int = 1) -> None:
    assert said(stage.messages()) == list(texts)
    assert [turn.ok for turn in stage.results()] == [True] * turns
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    stage.assert_usable()


# ---------------------------------------------------------------- where it joins


def test_input_that_comes_during_a_round_is_delivered_with_the_results(stage: Stage) -> None:
    model = acted(stage, in_call=1, does=lambda: stage.inject("wait"))
    turn = stage.answer("go")
    assert turn.text == "waited"
    assert sent(model, 2) == ["go", "wait"]
    joined = stage.messages()[-2]
    assert (joined.role, joined.origin and joined.origin.kind) == (Role.USER, "injected")
    assert_joined(stage, "go", "wait", "waited")


def test_input_that_comes_during_the_answer_is_answered_in_the_same_turn(stage: Stage) -> None:
    model = acted(stage, in_call=1, does=lambda: stage.inject("and"))
    turn = stage.answer("wait")
    assert turn.text == "added"
    assert sent(model, 2) == ["wait", "waited", "and"]
    assert_joined(stage, "wait", "waited", "and", "added")


def test_input_that_comes_after_the_last_checkpoint_is_taken_before_the_commit(stage: Stage) -> None:
    model = acted(stage)
    stage.send("wait")
    stage.run_all(When(CrashPoint.BEFORE_COMMIT, lambda: stage.inject("and")))
    assert sent(model, 2) == ["wait", "waited", "and"]
    assert_joined(stage, "wait", "waited", "and", "added")


def test_inputs_of_one_merge_key_join_together_and_an_exclusive_one_alone(stage: Stage) -> None:
    def arrive() -> None:
        stage.inject("one", exclusive=False, merge_key="m")
        stage.inject("two", exclusive=False, merge_key="m")
        stage.inject("and")

    model = acted(stage, in_call=1, does=arrive)
    stage.answer("go")
    assert sent(model, 2) == ["go", "one", "two"]
    assert_joined(stage, "go", "one", "two", "You said: two", "and", "added")


@pytest.mark.shows("Q30")
def test_an_image_that_joins_reaches_the_model(stage: Stage) -> None:
    png = b"\x89PNG\r\n\x1a\nan image"
    image = ImagePart(blob_ref(png), "image/png", "photo")
    payload = encode(QueuedInput, QueuedInput(AGENT, (image, TextPart("and"))))
    loaded: list[bytes] = []

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if not loaded and call_number(call.request) == 1 and last_user_text(call.request) == "wait":
            stage.inject("and", payload=payload, blobs=(Blob(blob_ref(png), png),))
        parts = call.request.messages[-1].parts
        loaded.extend(call.load_blob(part.blob) for part in parts if isinstance(part, ImagePart))

    stage.model = Model(script(TEXTS), before=before)
    stage.answer("wait")
    assert loaded == [png]
    assert_joined(stage, "wait", "waited", "and", "added")


@pytest.mark.shows("Q28")
def test_an_image_that_is_not_there_ends_the_turn_with_a_record_and_is_not_delivered_again(stage: Stage) -> None:
    """The door refuses such input; this one lost its blob later."""
    model = acted(stage)
    gone = ImagePart(blob_ref(b"gone"), "image/png", "photo")
    stage.inject("see", payload=encode(QueuedInput, QueuedInput(AGENT, (gone, TextPart("see")))))
    stage.inject("wait", early=False)
    stage.run_all()
    first, second = stage.results()
    assert (first.outcome, [issue.code for issue in first.errors]) == (
        stopped(StopKind.INVALID_INPUT),
        [ErrorCode.INVALID_TURN_INPUT],
    )
    assert second.text == "waited"
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    assert model.asked.total() == 1


def test_input_of_the_same_context_joins(stage: Stage) -> None:
    acted(stage, in_call=1, does=lambda: stage.inject("and", context={"user": 1}))
    stage.answer("wait", context={"user": 1})
    assert_joined(stage, "wait", "waited", "and", "added")


@pytest.mark.shows("P8")
def test_input_that_is_taken_before_the_end_of_a_turn_is_announced(stage: Stage) -> None:
    live = LiveRecorder()
    acted(stage, in_call=1, does=lambda: stage.send("and", when="steer", idempotency_key="msg-2"))
    stage.send("wait")
    stage.run_all(wrap=lambda stores: replace(stores, live=live))
    accepted = [event.data for event in live.events if event.type is ActivityType.QUEUED_INPUT_ACCEPTED]
    taken = [(one["checkpoint"], [taken["id"] for taken in one["inputs"]]) for one in accepted]
    assert taken == [("before_completion", ["msg-2"])]


# ---------------------------------------------------------------- where it does not


@pytest.mark.parametrize(
    "late", [lambda stage: stage.inject("and", context={"user": 2}), lambda stage: stage.send("and")]
)
@pytest.mark.parametrize("at", ["call", "commit"])
def test_input_of_another_context_or_for_after_the_turn_waits_for_its_own(
    stage: Stage, late: Callable[[Stage], object], at: str
) -> None:
    model = acted(stage, in_call=1 if at == "call" else None, does=lambda: late(stage))
    stage.send("wait", context={"user": 1})
    stage.run_all(When(CrashPoint.BEFORE_COMMIT, lambda: late(stage) if at == "commit" else None))
    assert [turn.text for turn in stage.results()] == ["waited", "added"]
    assert sent(model, 1) == ["wait"]
    assert_joined(stage, "wait", "waited", "and", "added", turns=2)


def test_input_for_another_agent_waits_for_its_own_turn(stage: Stage) -> None:
    acted(stage, in_call=1, does=lambda: stage.inject("and", name="other"))
    stage.agents.append(replace(agent(), name="other"))
    stage.answer("wait")
    assert [(turn.agent, turn.turn_index) for turn in stage.turns()] == [(AGENT, 1), ("other", 2)]
    assert_joined(stage, "wait", "waited", "and", "added", turns=2)


def test_early_input_does_not_overtake_what_was_sent_before_it(stage: Stage) -> None:
    def arrive() -> None:
        stage.send("behind")
        stage.inject("and")

    acted(stage, in_call=1, does=arrive)
    stage.answer("wait")
    assert_joined(stage, "wait", "waited", "behind", "You said: behind", "and", "added", turns=2)


def test_a_cancelled_turn_takes_no_input_with_it(stage: Stage) -> None:
    def arrive() -> None:
        stage.inject("and")
        stage.cancel()

    acted(stage, in_call=1, does=arrive)
    stage.answer("go")
    first, second = stage.results()
    assert first.outcome == stopped(StopKind.CANCELLED)
    assert second.text == "added"


def test_a_draining_worker_takes_no_more_input_and_commits_what_it_has(stage: Stage) -> None:
    worker: list[WorkerParts] = []

    def arrive() -> None:
        stage.inject("and")
        worker[0].running.worker.begin_drain()

    acted(stage, in_call=1, does=arrive)
    stage.send("wait")
    with stage.worker() as parts:
        worker.append(parts)
        parts.running.sessions.run(SESSION)
    assert stage.last().text == "waited"
    stage.run_all()
    assert_joined(stage, "wait", "waited", "and", "added", turns=2)


@pytest.mark.parametrize("at", ["call", "commit"])
def test_input_does_not_join_a_turn_that_has_no_iteration_left_to_answer_it(stage: Stage, at: str) -> None:
    acted(stage, in_call=1 if at == "call" else None, does=lambda: stage.inject("and"))
    stage.agents = [agent(max_iterations=1)]
    stage.send("wait")
    stage.run_all(When(CrashPoint.BEFORE_COMMIT, lambda: stage.inject("and") if at == "commit" else None))
    assert_joined(stage, "wait", "waited", "and", "added", turns=2)


# ---------------------------------------------------------------- deaths


@pytest.mark.shows("P14")
@pytest.mark.parametrize("point", [CrashPoint.AFTER_CHECKPOINT, CrashPoint.BEFORE_COMMIT])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_input_that_joined_stays_with_its_turn_through_a_death(stage: Stage, point: CrashPoint, count: int) -> None:
    """One joins during the round, one during the answer to it, one right before the commit."""
    joins = {1: "one", 2: "two"}

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() in joins:
            stage.inject(joins[model.asked.total()])

    acted(stage)
    stage.model = model = Model(script(TEXTS), before=before)
    commit = When(CrashPoint.BEFORE_COMMIT, lambda: stage.inject("three"))
    death = When(point, die, count)

    def reached(at: CrashPoint) -> None:
        commit(at)
        death(at)

    stage.send("go")
    stage.run_all(reached)
    assert set(model.asked.values()) == {1}, "a recorded call was made again"
    assert_joined(stage, "go", "one", "You said: one", "two", "You said: two", "three", "You said: three")


def test_while_its_turn_is_dead_a_joined_input_is_claimed_by_it(stage: Stage) -> None:
    acted(stage, in_call=1, does=lambda: stage.inject("and"))
    stage.send("wait")
    assert stage.run(When(CrashPoint.AFTER_CHECKPOINT, die)) is None
    assert set(stage.states().values()) == {BatchState.CLAIMED}
    stage.run_all()
    assert_joined(stage, "wait", "waited", "and", "added")


# ---------------------------------------------------------------- what it costs


def test_no_checkpoint_asks_the_database_unless_something_may_join(stage: Stage) -> None:
    questions: Counter[str] = Counter()

    class Counted(TurnsBetween):
        def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
            questions[f"asked in turn {len(stage.results()) + 1}"] += 1
            return super().checkpoint(request)

    def counted(stores: Stores) -> Stores:
        return replace(stores, turns=Counted(stores.turns))

    acted(stage)
    stage.send("go")
    stage.run_all(wrap=counted)
    assert questions == {}
    acted(stage, in_call=1, does=lambda: stage.inject("and"))
    stage.send("wait")
    stage.run_all(wrap=counted)
    # Once at the checkpoint after "waited"; the record of "added" said that nothing else may join.
    assert questions == {"asked in turn 2": 1}
