"""What a later release has written is left to its workers: untouched, uncounted, and never shown as a hole."""

from __future__ import annotations

import logging

import pytest

from lash_tasks.domain.codec import canonical
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS, StopKind, stopped
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.sql import tables
from tests.turns.models import Model
from tests.turns.plugins import plugin, remembers
from tests.turns.stage import SESSION, Death, Stage, agent

LATER = canonical({"v": 9, "d": {"of": "a later release"}})


def written_later(stage: Stage, table: str, column: str, words: str) -> bytes:
    """Let the one row that holds `words` be as a later release writes it; what its column was before."""
    columns = tables.metadata.tables[table]
    (row,) = [row for row in stage.rows(columns) if words in str(row)]
    key = {column.name: row[column.name] for column in columns.primary_key.columns}
    condition = " AND ".join(f"{name} = :{name}" for name in key)
    assert stage.execute(f"UPDATE {table} SET {column} = :later WHERE {condition}", later=LATER, **key) == 1
    return bytes(row[column])


def write_back(stage: Stage, table: str, column: str, before: bytes) -> None:
    """A worker that can read it has come: here, by writing what this one can read."""
    changed = stage.execute(
        f"UPDATE {table} SET {column} = :before WHERE {column} = :later", before=before, later=LATER
    )
    assert changed == 1


def is_left_alone(stage: Stage, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """However often a worker of this release looks at the session, it changes nothing but the fence."""
    before = stage.states(), stage.transcript(), stage.rows(tables.effects)
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * MAX_ATTEMPTS):
            assert stage.run() is RunVerdict.NOTHING
    assert (stage.states(), stage.transcript(), stage.rows(tables.effects)) == before
    assert stage.turns()[-1].attempt == 1
    problems = {record.__dict__["problem"] for record in caplog.records if "later release" in record.message}
    assert problems == {f"a stored {kind} has schema version 9, this code reads 1; upgrade the older side"}


def goes_on(stage: Stage) -> None:
    stage.run_all()
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    assert stage.last().ok


@pytest.mark.shows("E3")
def test_an_input_of_a_later_release_waits_for_its_workers(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.send("hello")
    before = written_later(stage, "lash_batches", "payload", "hello")
    stage.run()
    is_left_alone(stage, caplog, "QueuedInput")
    write_back(stage, "lash_batches", "payload", before)
    goes_on(stage)


@pytest.mark.shows("E3")
def test_a_turn_with_an_outcome_of_a_later_release_waits_for_its_workers(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.model = model = Model()
    stage.send("hello")
    assert stage.run(Death(CrashPoint.AFTER_RECORD)) is None
    before = written_later(stage, "lash_effects", "outcome", "llm_call")
    is_left_alone(stage, caplog, "ModelOutcome")
    write_back(stage, "lash_effects", "outcome", before)
    goes_on(stage)
    assert model.asked.total() == 1


@pytest.mark.shows("E3")
def test_a_model_is_not_shown_a_history_with_holes_that_a_later_release_can_read(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.model = model = Model()
    stage.answer("one")
    before = written_later(stage, "lash_nodes", "message", "'node_id': 'm1.0'")
    stage.send("two")
    stage.run()
    is_left_alone(stage, caplog, "node")
    assert model.asked.total() == 1
    write_back(stage, "lash_nodes", "message", before)
    goes_on(stage)


@pytest.mark.shows("E3")
def test_input_of_a_later_release_joins_no_turn_of_this_one(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    payloads: list[bytes] = []

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            stage.inject("and")
            payloads.append(written_later(stage, "lash_batches", "payload", '"and"'))

    stage.model = model = Model(before=before)
    stage.send("hello")
    stage.run()
    assert sorted(stage.states().values()) == [BatchState.CLAIMED, BatchState.READY]
    is_left_alone(stage, caplog, "QueuedInput")
    write_back(stage, "lash_batches", "payload", payloads[0])
    goes_on(stage)
    assert model.asked.total() == 2


@pytest.mark.shows("E3")
def test_a_memory_of_a_later_release_fails_no_plugin(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.agents = [agent(plugins=[plugin({Hook.BEFORE_TURN: remembers({"seen": 1})})])]
    stage.answer("one")
    before = written_later(stage, "lash_blobs", "content", "seen")
    stage.send("two")
    stage.run()
    is_left_alone(stage, caplog, "PluginState")
    write_back(stage, "lash_blobs", "content", before)
    goes_on(stage)


def test_a_turn_that_only_a_later_release_can_read_can_be_cancelled_by_any_worker(stage: Stage) -> None:
    stage.send("hello")
    written_later(stage, "lash_batches", "payload", "hello")
    assert stage.run() is RunVerdict.NOTHING
    stage.cancel()
    stage.run_all()
    assert stage.last().outcome == stopped(StopKind.CANCELLED)
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    with stage.worker() as parts:
        assert parts.running.sessions.run(SESSION) is RunVerdict.NOTHING
