"""The connection to Postgres breaks after a commit was sent: whoever tries again gets what is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType
from lash_tasks.errors import StoreUnavailable
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.protocols import CommitRefused
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import Scene, node
from tests.lossy_proxy import lossy
from tests.turns.doubles import LiveRecorder
from tests.turns.models import Model
from tests.turns.stage import Stage


@pytest.mark.shows("T12")
def test_a_commit_whose_answer_was_lost_has_landed_and_says_so_when_it_is_tried_again(
    migrated_postgres_url: str,
) -> None:
    with lossy(migrated_postgres_url) as (proxy, url):
        clock = FakeClock()
        direct = Scene(Database.open(migrated_postgres_url, now_ms=clock.now_ms), clock)
        through = Scene(Database.open(url, now_ms=clock.now_ms), clock)
        through.send("first")
        turn = through.open()
        proxy.lose_answer_to(b"a stamp to know it by")

        with pytest.raises(StoreUnavailable):
            through.commit(turn, nodes=(node(1),), stamp="a stamp to know it by")

        assert proxy.lost == 1
        landed = direct.everything()
        [row] = direct.rows(tables.turns)
        assert row["stamp"] == "a stamp to know it by"
        again = through.commit(turn, nodes=(node(1),), stamp="a stamp to know it by")
        assert again is CommitRefused.ALREADY
        assert direct.everything() == landed
        through.database.close()
        direct.database.close()


@pytest.mark.shows("T12", "U6")
def test_a_worker_that_lost_the_answer_to_its_commit_goes_on_as_if_it_had_it(migrated_postgres_url: str) -> None:
    live = LiveRecorder()
    with lossy(migrated_postgres_url) as (proxy, url):
        model = Model(before=lambda call, interrupt: proxy.lose_answer_to(b'"status":"committed"'))
        with Stage(settings=Settings(database_url=url), model=model) as stage:
            stage.send("hello")
            assert stage.run(wrap=lambda stores: replace(stores, live=live)) is RunVerdict.COMMITTED
            assert proxy.lost == 1
            assert model.asked.total() == 1
            assert [(turn.ok, turn.text) for turn in stage.results()] == [(True, "You said: hello")]
            assert len(stage.transcript()) == 2
            assert len(stage.rows(tables.usage)) == 1
            assert [event.type for event in live.events].count(ActivityType.COMMITTED) == 1
            stage.assert_usable()
