"""A turn that has its answer and whose plugins look at it: input, cancels and deaths that come just then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.clock import SystemClock
from lash_tasks.domain.hooks import AbortTurn
from lash_tasks.domain.ids import BatchId
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.ports import Interrupt, ModelCall, ProviderFailure
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CancelRequest
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointRequest,
    CheckpointTaken,
    CommitRefused,
    Committed,
    TurnCommit,
)
from tests.turns.doubles import TurnsBetween
from tests.turns.models import Model, says, script
from tests.turns.plugins import Calls, plugin
from tests.turns.stage import SESSION, DieAt, Stage, agent

MODEL = {"wait": [says("waited")], "and": [says("added")]}


@pytest.fixture
def seen() -> Calls:
    return Calls()


@pytest.fixture
def stage(stage: Stage, seen: Calls) -> Stage:
    """With a plugin in every phase that does nothing but look."""
    stage.agents = [agent(plugins=[plugin(calls=seen)])]
    stage.model = Model(script(MODEL))
    return stage


def test_a_steer_that_comes_between_a_death_and_the_commit_joins_the_resumed_turn(stage: Stage, seen: Calls) -> None:
    """The journal went beyond the checkpoint, to what plugins had said, so nothing was let in and no commit fitted."""
    stage.send("wait")
    assert stage.run(DieAt(CrashPoint.BEFORE_COMMIT)) is None
    assert seen.of(Hook.AFTER_TURN) == 1
    stage.send("and", when="steer")
    whole = DieAt()
    stage.run_all(whole)
    assert whole.passed[CrashPoint.BEFORE_COMMIT] == 2, "refused once, for what joins"
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    (turn,) = stage.results()
    assert turn.text == "added"
    assert seen.of(Hook.AFTER_TURN) == 2, "once for each answer that there was"


def test_what_was_recorded_of_plugins_is_used_again_when_nothing_joins_after_all(stage: Stage, seen: Calls) -> None:
    """A steer keeps the turn from committing and is cancelled before it joins: the end is the same effect again."""
    steers: list[BatchId] = []

    class Between(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            if not steers:
                steers.append(stage.send("and", when="steer"))
            return super().commit(commit)

        def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
            with stage.ingress() as ingress:
                ingress.cancel(CancelRequest.parse({"session_id": SESSION, "input_id": steers[0]}))
            return super().checkpoint(request)

    stage.send("wait")
    stage.run(wrap=lambda stores: replace(stores, turns=Between(stores.turns)))
    assert stage.states()[steers[0]] is BatchState.CANCELLED
    assert stage.last().text == "waited"
    assert seen.of(Hook.AFTER_TURN) == 1


def test_an_answer_that_is_there_ends_the_turn_though_it_is_cancelled(stage: Stage) -> None:
    def cancel(call: ModelCall, interrupt: Interrupt) -> None:
        stage.cancel()

    stage.model = Model(script(MODEL), before=cancel)
    turn = stage.answer("wait")
    assert (turn.ok, turn.text) == (True, "waited")


def test_an_answer_that_is_there_ends_the_turn_though_its_time_is_over(stage: Stage) -> None:
    class Late(SystemClock):
        late = 0.0

        def monotonic(self) -> float:
            return super().monotonic() + self.late

    stage.clock = clock = Late()

    def dawdle(call: ModelCall, interrupt: Interrupt) -> None:
        clock.late = 2.0

    stage.agents = [agent(plugins=[plugin()], max_turn_seconds=1)]
    stage.model = Model(script(MODEL), before=dawdle)
    turn = stage.answer("wait")
    assert (turn.ok, turn.text) == (True, "waited")


def test_no_code_of_a_plugin_makes_a_dead_letter(stage: Stage) -> None:
    refuses = plugin({Hook.BEFORE_TURN: lambda ctx: AbortTurn("attempts_exhausted", "you have tried too often")})
    stage.agents = [agent(plugins=[refuses])]
    assert stage.answer("wait").outcome == stopped(StopKind.PLUGIN_ABORT)
    assert set(stage.states().values()) == {BatchState.CONSUMED}


def test_no_code_of_a_model_server_makes_a_dead_letter(stage: Stage) -> None:
    def fails(call: ModelCall, interrupt: Interrupt) -> None:
        if call.model == "down":
            raise ProviderFailure("no more", code="attempts_exhausted", retryable=True)

    stage.agents = [agent(model="test:down", fallbacks=["test:test"])]
    stage.model = Model(script(MODEL), before=fails)
    assert stage.answer("wait").ok
    assert set(stage.states().values()) == {BatchState.CONSUMED}
