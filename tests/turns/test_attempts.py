"""A turn that kills whoever runs it is ended after five attempts; what is no fault of its own is not counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lash_tasks import tool
from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import BatchId
from lash_tasks.domain.journal import JournalRow, RecordReply
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS, AssembledTurn, StopKind, stopped
from lash_tasks.errors import ErrorCode, StoreUnavailable
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.providers.scripted import last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.protocols import CommitRefused, Committed, TurnCommit
from lash_tasks.wiring import WorkerParts
from tests.turns.doubles import TurnsBetween
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Death, SimulatedDeath, Stage, Wrap, agent

RUNTIME_ERROR = stopped(StopKind.RUNTIME_ERROR)


@tool
def look() -> str:
    """Look."""
    return "seen"


@tool(on_crash="never")
def charge() -> str:
    """Charge."""
    return "charged"


def deadly(text: str, after_tools: bool = False) -> Model:
    """A model that kills the process when it is asked this."""

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if last_user_text(call.request) == text and (len(call.request.messages) > 1) >= after_tools:
            raise SimulatedDeath

    return Model(script({text: [calls(("look", "")), says("done")]}), before=before)


def run_to_the_end(stage: Stage, wrap: Wrap | None = None) -> int:
    """Workers until nothing is left to do, whatever they raise; how many raised."""
    for raised in range(3 * MAX_ATTEMPTS):
        try:
            stage.run_all(wrap=wrap)
        except (ValueError, ArithmeticError):
            continue
        return raised
    raise AssertionError("the turn is never buried")


def assert_buried(stage: Stage, *inputs: BatchId) -> AssembledTurn:
    """The first turn ended for good and with it its inputs, each with a dead letter; the next input was answered."""
    first, second = stage.results()
    assert first.outcome == RUNTIME_ERROR
    assert [issue.code for issue in first.errors] == [ErrorCode.ATTEMPTS_EXHAUSTED]
    assert second.text == "You said: behind"
    states = stage.states()
    assert {states[batch] for batch in inputs} == {BatchState.DEAD}
    assert sum(state is BatchState.DEAD for state in states.values()) == len(inputs)
    with stage.reading() as stores:
        letters = stores.queue.dead(SESSION)
    assert {(letter.batch_id, letter.reason) for letter in letters} == {
        (batch, ErrorCode.ATTEMPTS_EXHAUSTED) for batch in inputs
    }
    stage.assert_usable()
    return first


# ---------------------------------------------------------------- what is counted


@pytest.mark.shows("Q27")
def test_after_five_deaths_without_progress_the_input_is_a_dead_letter_and_the_next_one_runs(stage: Stage) -> None:
    stage.model = model = deadly("poison")
    poison = stage.send("poison")
    stage.send("behind")
    stage.run_all()
    assert model.asked["poison", False] == MAX_ATTEMPTS
    assert assert_buried(stage, poison).attempt == MAX_ATTEMPTS
    assert [turn.attempt for turn in stage.turns()][:2] == [MAX_ATTEMPTS, 1]
    assert [text_of(message) for message in stage.messages()][:2] == ["poison", "behind"]


@pytest.mark.raises_code("attempts_exhausted")
def test_a_buried_turn_keeps_what_is_complete(stage: Stage) -> None:
    stage.agents, stage.model = [agent(look)], deadly("poison", after_tools=True)
    poison = stage.send("poison")
    stage.send("behind")
    stage.run_all()
    turn = assert_buried(stage, poison)
    assert [call.outcome.value for call in turn.tool_calls] == ["seen"]
    assert [message["role"] for message in stage.transcript()][:4] == ["user", "assistant", "user", "user"]


def test_whoever_makes_progress_before_it_dies_may_die_as_often_as_it_likes(stage: Stage) -> None:
    rounds = 4
    stage.agents = [agent(look)]
    stage.model = model = Model(script({"go": [calls(("look", ""))] * rounds + [says("done")]}))
    stage.send("go")
    deaths = 0
    while stage.run(Death(CrashPoint.AFTER_RECORD)) is None:
        deaths += 1
    assert deaths == 2 * rounds + 1 > MAX_ATTEMPTS
    assert (stage.last().text, stage.last().attempt) == ("done", 1)
    assert model.asked.total() == rounds + 1


def test_progress_after_some_deaths_starts_the_count_again(stage: Stage) -> None:
    stage.agents, stage.model = [agent(look)], Model(script({"go": [calls(("look", "")), says("done")]}))
    stage.send("go")
    for _ in range(MAX_ATTEMPTS - 1):
        assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    assert stage.run(Death(CrashPoint.AFTER_RECORD)) is None
    for _ in range(MAX_ATTEMPTS - 1):
        assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    stage.run_all()
    assert (stage.last().text, stage.last().attempt) == ("done", MAX_ATTEMPTS)


# ---------------------------------------------------------------- what is not


def test_a_drain_counts_as_no_attempt(stage: Stage) -> None:
    stage.send("hello")
    worker: list[WorkerParts] = []

    def drain(point: CrashPoint) -> None:
        if point is CrashPoint.AFTER_OPEN:
            worker[-1].running.worker.begin_drain()

    for _ in range(2 * MAX_ATTEMPTS):
        with stage.worker(drain) as parts:
            worker.append(parts)
            assert parts.running.sessions.run(SESSION) is RunVerdict.YIELDED
    stage.run_all()
    assert (stage.last().text, stage.last().attempt) == ("You said: hello", 1)


class NoRecords(TurnsBetween):
    def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
        raise StoreUnavailable("away")


def no_records(stores: Stores) -> Stores:
    return replace(stores, turns=NoRecords(stores.turns))


def test_a_database_that_is_away_counts_as_no_attempt(stage: Stage) -> None:
    stage.clock = FakeClock()
    stage.send("hello")
    for _ in range(2 * MAX_ATTEMPTS):
        with pytest.raises(StoreUnavailable):
            stage.run(wrap=no_records)
    stage.run_all()
    assert (stage.last().text, stage.last().attempt) == ("You said: hello", 1)


def test_a_database_that_is_away_at_the_last_attempt_costs_the_turn_nothing(stage: Stage) -> None:
    """A burial that finds the database away waits for it, instead of leaving out what it could not write."""
    stage.clock = FakeClock()
    stage.agents, stage.model = [agent(charge)], Model(script({"go": [calls(("charge", "")), says("done")]}))
    dead = stage.send("go")
    stage.send("behind")
    assert stage.run(Death(CrashPoint.AFTER_BEGUN)) is None
    for _ in range(MAX_ATTEMPTS):
        assert stage.run(Death(CrashPoint.AFTER_OPEN)) is None
    with pytest.raises(StoreUnavailable):
        stage.run(wrap=no_records)
    stage.run_all()
    turn = assert_buried(stage, dead)
    (call,) = turn.tool_calls
    assert call.outcome.failure is not None
    assert call.outcome.failure.code == ErrorCode.TOOL_ATTEMPT_INTERRUPTED


# ---------------------------------------------------------------- faults inside


def spoiled(stage: Stage, table: str, column: str, key: str) -> int:
    garbage = b"no sense"
    return stage.execute(f"UPDATE {table} SET {column} = :garbage WHERE {key}", garbage=garbage)


def test_a_journal_that_cannot_be_read_is_buried_in_the_end(stage: Stage) -> None:
    stage.model = model = Model()
    dead = stage.send("hello")
    stage.send("behind")
    assert stage.run(Death(CrashPoint.AFTER_RECORD)) is None
    assert spoiled(stage, "lash_effects", "outcome", "replay_key LIKE '%:llm_call:%'") == 1
    assert run_to_the_end(stage) == MAX_ATTEMPTS
    assert_buried(stage, dead)
    assert model.asked["hello", False] == 1


def test_a_payload_that_cannot_be_read_is_buried_in_the_end(stage: Stage) -> None:
    stage.model = model = Model()
    dead = stage.send("hello")
    assert spoiled(stage, "lash_batches", "payload", "state = 'ready'") == 1
    stage.send("behind")
    assert run_to_the_end(stage) == MAX_ATTEMPTS
    assert_buried(stage, dead)
    assert model.asked["hello", False] == 0


def test_with_a_turn_that_cannot_be_read_the_inputs_that_joined_it_are_buried(stage: Stage) -> None:
    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            joined.append(stage.inject("and"))

    joined: list[BatchId] = []
    stage.model = model = Model(before=before)
    dead = stage.send("hello")
    assert stage.run(Death(CrashPoint.AFTER_CHECKPOINT)) is None
    stage.send("behind")
    assert spoiled(stage, "lash_effects", "outcome", "replay_key LIKE '%:llm_call:%'") == 1
    assert run_to_the_end(stage) == MAX_ATTEMPTS
    assert_buried(stage, dead, *joined)


def test_a_checkpoint_that_cannot_be_read_takes_its_turn_and_what_joined_it_and_no_more(stage: Stage) -> None:
    """Which inputs had joined was read from the checkpoint, and without it no commit ever fitted."""

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            joined.append(stage.inject("and"))

    joined: list[BatchId] = []
    stage.model = model = Model(before=before)
    dead = stage.send("hello")
    assert stage.run(Death(CrashPoint.AFTER_CHECKPOINT)) is None
    stage.send("behind")
    assert spoiled(stage, "lash_effects", "outcome", "replay_key LIKE '%:checkpoint:%'") == 1
    assert run_to_the_end(stage) == MAX_ATTEMPTS
    assert_buried(stage, dead, *joined)


def test_a_result_that_cannot_be_committed_is_buried_without_its_content(stage: Stage) -> None:
    class Choosy(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            if any(node.message and "hello" in text_of(node.message) for node in commit.nodes):
                raise ArithmeticError("not this one")
            return super().commit(commit)

    dead = stage.send("hello")
    stage.send("behind")
    raised = run_to_the_end(stage, lambda stores: replace(stores, turns=Choosy(stores.turns)))
    assert raised == 1 + MAX_ATTEMPTS, "the first opening made progress: it recorded the answer"
    first, second = stage.results()
    assert first.outcome == RUNTIME_ERROR
    assert stage.states()[dead] is BatchState.DEAD
    assert second.text == "You said: behind"


# ---------------------------------------------------------------- again


def test_a_dead_letter_is_run_again_as_a_new_input(stage: Stage) -> None:
    stage.model = deadly("poison")
    poison = stage.send("poison", context={"user": 1})
    stage.run_all()
    stage.model = Model()
    with stage.ingress() as ingress:
        first, second = ingress.replay(poison), ingress.replay(poison)
    assert (first.created, second.created, first.id) == (True, False, second.id)
    stage.run_all()
    assert [turn.text for turn in stage.results()] == ["", "You said: poison"]
    assert stage.states() == {poison: BatchState.DEAD, first.id: BatchState.CONSUMED}
    with stage.reading() as stores:
        (letter,) = stores.queue.dead(SESSION)
    assert letter.replayed_as == first.id
