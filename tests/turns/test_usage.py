"""Tokens are counted once, whatever becomes of the worker between the answer and its commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.usage import TokenLedgerEntry, TokenUsage, usage_report
from lash_tasks.errors import StoreUnavailable
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.protocols import CommitRefused, Committed, TurnCommit
from tests.turns.doubles import TurnsBetween
from tests.turns.models import Model, says
from tests.turns.stage import SESSION, DieAt, Stage

USED = TokenUsage(10, 5, 4, 3)


def counted(_request: ModelRequest) -> ModelResponse:
    return replace(says("done"), usage=USED)


@pytest.fixture
def stage(stage: Stage) -> Stage:
    stage.clock, stage.model = FakeClock(), Model(counted)
    return stage


def ledger(stage: Stage) -> list[TokenLedgerEntry]:
    with stage.reading() as stores:
        return [TokenLedgerEntry(row.source, row.model, row.usage) for row in stores.sessions.usage(SESSION)]


@pytest.mark.shows("U5")
def test_after_a_commit_that_failed_for_good_both_turns_are_counted_once(stage: Stage) -> None:
    class Down(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            raise StoreUnavailable("away")

    def down(stores: Stores) -> Stores:
        return replace(stores, turns=Down(stores.turns))

    stage.send("first")
    with pytest.raises(StoreUnavailable):
        stage.run(wrap=down)
    assert ledger(stage) == []
    stage.send("second")
    stage.run_all()

    assert ledger(stage) == [TokenLedgerEntry("turn", "test:test", USED + USED)]
    assert usage_report(ledger(stage)).usage.total_tokens == 30


@pytest.mark.shows("U6")
@pytest.mark.parametrize("point", [CrashPoint.AFTER_RECORD, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
def test_a_recorded_call_is_counted_once_through_a_death(stage: Stage, point: CrashPoint) -> None:
    stage.send("hello")
    assert stage.run(DieAt(point)) is None
    stage.run_all()

    assert ledger(stage) == [TokenLedgerEntry("turn", "test:test", USED)]
    assert stage.last().token_usage == USED
    assert stage.run() is RunVerdict.NOTHING
