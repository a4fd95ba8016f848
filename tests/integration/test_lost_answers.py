"""The connection to Postgres breaks after a commit was sent: whoever tries again gets what is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import text

from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType
from lash_tasks.errors import StoreUnavailable
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.protocols import CommitRefused, Committed, StateWrite
from lash_tasks.stores.sql import pipeline, tables
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import Scene, made
from tests.lossy_proxy import lossy
from tests.services import wait_until
from tests.turns.doubles import LiveRecorder
from tests.turns.models import Model
from tests.turns.stage import Stage


@dataclass
class Place:
    """Where an answer gets lost, and whether what was sent there had landed."""

    marker: bytes
    changed: dict[str, Any]
    landed: bool


STAMP = "a stamp to know it by"
ONE_STATEMENT = Place(STAMP.encode(), {}, landed=True)
STATES = {"states": (StateWrite("plugin:a", 1, b"state"),)}
BEFORE_THE_END = Place(STAMP.encode(), STATES, landed=False)
AT_THE_END = Place(b"\0" + pipeline._statement("COMMIT").name + b"\0", STATES, landed=True)


@pytest.mark.shows("T12")
@pytest.mark.parametrize(
    "place", [ONE_STATEMENT, BEFORE_THE_END, AT_THE_END], ids=["one statement", "before the end", "at the end"]
)
def test_a_commit_whose_answer_was_lost_leaves_all_or_nothing_and_can_be_made_again(
    migrated_postgres_url: str, place: Place
) -> None:
    with lossy(migrated_postgres_url) as (proxy, url):
        clock = FakeClock()
        direct = Scene(Database.open(migrated_postgres_url, now_ms=clock.now_ms), clock)
        through = Scene(Database.open(url, now_ms=clock.now_ms), clock)
        through.send("first")
        turn = through.open()
        values: dict[str, Any] = {"nodes": (made(turn, 0),), "stamp": STAMP, **place.changed}
        before = direct.everything()
        proxy.lose_answer_to(place.marker)

        with pytest.raises(StoreUnavailable):
            through.commit(turn, **values)

        assert proxy.lost == 1
        after = wait_until(lambda: _at_rest(direct), 10, "the server to notice the lost connection")
        assert (after != before) is place.landed
        again = through.commit(turn, **values)
        assert again is CommitRefused.ALREADY if place.landed else isinstance(again, Committed)
        [row] = direct.rows(tables.turns)
        assert row["stamp"] == STAMP
        assert direct.count(tables.nodes) == 1
        assert direct.count(tables.states) == len(place.changed)
        through.database.close()
        direct.database.close()


def _at_rest(scene: Scene) -> dict[str, list[str]] | None:
    """What is stored, when no transaction is open in the database any more."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    with scene.database.reading() as connection:
        if connection.execute(text(query)).scalar_one():
            return None
    return scene.everything()


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


def test_a_connection_in_use_while_its_neighbour_breaks_is_closed_when_it_comes_back(
    migrated_postgres_url: str,
) -> None:
    """It came back to a pool that nobody took from any more, and stayed open until the garbage was collected."""
    database = Database.open(migrated_postgres_url)
    with database.postgres() as used, database.reading() as read:
        reader = read.connection.driver_connection
        assert reader is not None
        with pytest.raises(StoreUnavailable), database.postgres() as broken:
            broken.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert used.execute("SELECT 1").fetchone() == (1,)
    assert (used.closed, reader.closed) == (True, True)
    assert database.ask("SELECT 1 AS one", {}) == [{"one": 1}]
    database.close()
