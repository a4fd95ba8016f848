"""The database goes away in the middle of a turn, before or after it has written: nothing is done or stored twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.journal import EffectState, JournalRow, RecordReply, RecordVerdict
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS
from lash_tasks.errors import ErrorCode, StoreError, StoreUnavailable
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointRequest,
    CheckpointTaken,
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    OpenRequest,
    Runnable,
    TurnCommit,
)
from lash_tasks.stores.sql import tables
from lash_tasks.tools.definition import tool
from tests.turns.doubles import LiveRecorder, TurnsBetween, WorkBetween
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Stage, agent

T = TypeVar("T")
BEFORE, AFTER = "before it wrote", "after it wrote"
either = pytest.mark.parametrize("when", [BEFORE, AFTER])


class Flaky(TurnsBetween):
    """Fails the first calls of some verbs, before or after they have written."""

    def __init__(self, stores: Stores, when: str, times: dict[str, int]) -> None:
        super().__init__(stores.turns)
        self._when = when
        self._left = times

    def _try(self, verb: str, write: Callable[[], T]) -> T:
        left = self._left.get(verb, 0)
        self._left[verb] = left - 1
        if left > 0 and self._when == BEFORE:
            raise StoreUnavailable("away")
        written = write()
        if left > 0:
            raise StoreUnavailable("the answer was lost")
        return written

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        return self._try("open", lambda: self.turns.open(request))

    def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
        verb = "begin" if rows[0].state is EffectState.BEGUN else "record"
        return self._try(verb, lambda: self.turns.record(rows, wait=wait))

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        return self._try("checkpoint", lambda: self.turns.checkpoint(request))

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        return self._try("commit", lambda: self.turns.commit(commit))

    def give_up(self, session_id: SessionId, turn_id: TurnId, fence: int, *, crashed: bool) -> bool:
        return self._try("give_up", lambda: self.turns.give_up(session_id, turn_id, fence, crashed=crashed))


def flaky(when: str = BEFORE, **times: int) -> Callable[[Stores], Stores]:
    return lambda stores: replace(stores, turns=Flaky(stores, when, times))


@pytest.fixture
def stage(stage: Stage) -> Stage:
    stage.clock = FakeClock()
    return stage


def assert_answered_once(stage: Stage) -> None:
    assert [(turn.ok, turn.text) for turn in stage.results()] == [(True, "You said: hello")]
    assert len(stage.transcript()) == 2
    assert isinstance(stage.model, Model)
    assert stage.model.asked.total() == 1
    assert len(stage.rows(tables.effects)) == len(stage.rows(tables.usage)) == 1
    stage.assert_usable()


# ---------------------------------------------------------------- a moment


@pytest.mark.shows("T16", "P17")
@either
def test_a_record_is_tried_again_without_asking_the_model_again(stage: Stage, when: str) -> None:
    stage.send("hello")
    assert stage.run(wrap=flaky(when, record=2)) is RunVerdict.COMMITTED
    assert_answered_once(stage)


@either
def test_a_commit_is_tried_again_and_lands_once(stage: Stage, when: str) -> None:
    """Ambiguous: the first try landed and its answer was lost, the second is told so and announces it."""
    live = LiveRecorder()
    stage.send("hello")
    wrapped = flaky(when, commit=2)
    assert stage.run(wrap=lambda stores: replace(wrapped(stores), live=live)) is RunVerdict.COMMITTED
    assert [event.type for event in live.events].count(ActivityType.COMMITTED) == 1
    assert_answered_once(stage)


@either
def test_the_beginning_of_a_never_tool_is_tried_again_and_the_tool_runs_once(stage: Stage, when: str) -> None:
    runs: list[int] = []

    @tool(on_crash="never")
    def charge() -> str:
        """Charge."""
        runs.append(1)
        return "charged"

    stage.agents, stage.model = [agent(charge)], Model(script({"go": [calls(("charge", "")), says("done")]}))
    stage.send("go")
    # The tool has threads of its own, which want a clock that runs; two tries take 0.15 s of it.
    stage.clock = SystemClock()
    assert stage.run(wrap=flaky(when, begin=2)) is RunVerdict.COMMITTED
    assert runs == [1]
    assert [call.outcome.value for call in stage.last().tool_calls] == ["charged"]


def test_a_checkpoint_is_tried_again_and_its_input_joins_once(stage: Stage) -> None:
    stage.model = model = Model(before=lambda *_: stage.inject("and") if model.asked.total() == 1 else None)
    stage.send("hello")
    assert stage.run(wrap=flaky(checkpoint=2)) is RunVerdict.COMMITTED
    assert [message["parts"][0]["text"] for message in stage.transcript()] == [
        "hello",
        "You said: hello",
        "and",
        "You said: and",
    ]
    assert set(stage.states().values()) == {BatchState.CONSUMED}


def test_a_checkpoint_that_landed_unseen_is_read_when_the_turn_is_opened_again(stage: Stage) -> None:
    stage.model = model = Model(before=lambda *_: stage.inject("and") if model.asked.total() == 1 else None)
    stage.send("hello")
    with pytest.raises(StoreUnavailable):
        stage.run(wrap=flaky(AFTER, checkpoint=1))
    assert set(stage.states().values()) == {BatchState.CLAIMED}
    stage.run_all()
    assert (stage.last().text, stage.last().attempt) == ("You said: and", 1)
    assert len(stage.transcript()) == 4
    assert model.asked.total() == 2


# ---------------------------------------------------------------- longer


def test_a_commit_that_outlasts_all_patience_is_made_by_the_next_worker_without_a_model_call(stage: Stage) -> None:
    stage.send("hello")
    with pytest.raises(StoreUnavailable):
        stage.run(wrap=flaky(commit=99))
    assert stage.results() == []
    stage.run_all()
    assert stage.last().attempt == 1
    assert_answered_once(stage)


def test_an_open_that_landed_unseen_is_resumed_by_the_same_worker_at_once_and_not_counted(stage: Stage) -> None:
    stage.send("hello")
    with stage.worker(wrap=flaky(AFTER, open=1)) as parts:
        stage.beat(parts)
        with pytest.raises(StoreUnavailable):
            parts.running.sessions.run(SESSION)
        assert stage.run() is RunVerdict.BUSY, "another worker took the turn of a live one"
        assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED
    assert stage.last().attempt == 1
    assert_answered_once(stage)


def test_an_open_that_failed_left_nothing_behind(stage: Stage) -> None:
    stage.send("hello")
    before = stage.row_counts()
    with pytest.raises(StoreUnavailable):
        stage.run(wrap=flaky(open=1))
    assert stage.row_counts() == before
    stage.run_all()
    assert_answered_once(stage)


def test_a_turn_that_could_not_even_be_given_up_is_so_by_the_beats(stage: Stage) -> None:
    stage.send("hello")
    with stage.worker(wrap=flaky(record=99, give_up=1)) as parts:
        stage.beat(parts)
        with pytest.raises(StoreUnavailable):
            parts.running.sessions.run(SESSION)
        stage.beat(parts)
        assert stage.run() is RunVerdict.BUSY
        stage.beat(parts)
        assert stage.run() is RunVerdict.COMMITTED
    assert stage.last().attempt == 1


def test_a_look_that_fails_after_the_commit_is_left_to_the_sweep(stage: Stage) -> None:
    class Blind(WorkBetween):
        def runnable(self, request: OpenRequest) -> Runnable | None:
            raise StoreUnavailable("away")

    stage.send("hello")
    stage.send("behind")
    rings = len(stage.rings.sessions)
    assert stage.run(wrap=lambda stores: replace(stores, work=Blind(stores.work))) is RunVerdict.COMMITTED
    assert len(stage.rings.sessions) == rings


def test_a_row_that_the_database_refuses_counts_and_is_buried_in_the_end(stage: Stage) -> None:
    class Refusing(TurnsBetween):
        def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
            return [RecordReply(RecordVerdict.REFUSED) for _ in rows]

    dead = stage.send("hello")
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(StoreError):
            stage.run(wrap=lambda stores: replace(stores, turns=Refusing(stores.turns)))
    stage.run_all()
    assert [issue.code for issue in stage.last().errors] == [ErrorCode.ATTEMPTS_EXHAUSTED]
    assert stage.states() == {dead: BatchState.DEAD}
    stage.assert_usable()
