"""Every way in which a store refuses, on every backend; and records that another version wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text, update

from lash_tasks.domain.codec import canonical
from lash_tasks.domain.founding import NewSession
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.sessions import Place
from lash_tasks.errors import (
    CommitConflict,
    HeadRevisionConflict,
    SchemaBehind,
    StoreError,
    StoreMismatch,
    StoreUnavailable,
    UnsupportedRecordSchemaVersion,
)
from lash_tasks.stores.protocols import CommitRefused, PathChange
from lash_tasks.stores.sql import schema, tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene, node
from tests.conformance.inputs import agent, draft, serve

NEWER = canonical({"v": 9, "d": {"of": "a newer version"}})

# ---------------------------------------------------------------- refusals of a commit


def already(scene: Scene) -> object:
    turn = scene.open()
    scene.committed(turn)
    return scene.commit(turn)


def turn_conflict(scene: Scene) -> object:
    turn = scene.open()
    scene.committed(turn)
    return scene.commit(turn, stamp="of other content")


def fenced(scene: Scene) -> object:
    turn = scene.open(ALICE)
    scene.open(BOB)
    return scene.commit(turn)


def joinable(scene: Scene) -> object:
    turn = scene.open()
    scene.inject()
    return scene.commit(turn, refuse_if_joinable=True)


REFUSALS: dict[CommitRefused, Callable[[Scene], object]] = {
    CommitRefused.ALREADY: already,
    CommitRefused.TURN_CONFLICT: turn_conflict,
    CommitRefused.FENCED: fenced,
    CommitRefused.JOINABLE: joinable,
    CommitRefused.HEAD_CONFLICT: lambda scene: scene.commit(scene.open(), base_revision=7),
    CommitRefused.CLAIM_EXPIRED: lambda scene: scene.commit(scene.open(), batch_ids=()),
    CommitRefused.CONFLICT: lambda scene: scene.commit(scene.open(), path=PathChange(Place(7, 7)), nodes=(node(1),)),
}


@pytest.mark.shows("E2")
@pytest.mark.parametrize("refusal", CommitRefused)
def test_a_commit_is_refused_with_every_reason_there_is(scene: Scene, refusal: CommitRefused) -> None:
    scene.send()
    assert REFUSALS[refusal](scene) is refusal


# ---------------------------------------------------------------- errors


def unavailable(scene: Scene) -> object:
    scene.database.close()
    return scene.try_open()


def mismatch(scene: Scene) -> object:
    stranger = Database.open("sqlite://")
    serve(scene.database)
    with stranger.transaction() as connection:
        return SqlInputQueue(scene.database).enqueue_with(connection, draft())


def behind(scene: Scene) -> None:
    with scene.database.transaction() as connection:
        connection.execute(text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '0000_before'"))
    try:
        schema.check(scene.database.engine)
    finally:
        with scene.database.transaction() as connection:
            connection.execute(text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '{schema.head()}'"))


def other_version(scene: Scene) -> object:
    scene.send()
    scene.committed(scene.open(), result=NEWER)
    return SqlSessionStore(scene.database).turns(SESSION)


def behind_another(scene: Scene) -> object:
    scene.send()
    scene.committed(scene.open())
    return SqlSessionRegistry(scene.database).begin_anew(NewSession(session_id=SESSION), 7)


ERRORS: dict[type[StoreError], Callable[[Scene], object]] = {
    StoreUnavailable: unavailable,
    HeadRevisionConflict: behind_another,
    StoreMismatch: mismatch,
    SchemaBehind: behind,
    UnsupportedRecordSchemaVersion: other_version,
}


OF_THE_RUNTIME = {CommitConflict}
"""What the runtime makes of a refusal that should never happen: tests/turns/test_visits.py."""


@pytest.mark.shows("E2")
def test_every_store_error_is_brought_about_here() -> None:
    assert set(kinds_of(StoreError)) == set(ERRORS) | OF_THE_RUNTIME


def kinds_of(error: type[StoreError]) -> list[type[StoreError]]:
    """Those below it in the tree of errors."""
    return [kind for one in error.__subclasses__() for kind in (one, *kinds_of(one))]


@pytest.mark.shows("E2")
@pytest.mark.parametrize("error", ERRORS)
def test_a_store_raises_every_error_of_its_own(scene: Scene, error: type[StoreError]) -> None:
    with pytest.raises(error) as raised:
        ERRORS[error](scene)
    assert type(raised.value) is error
    assert raised.value.code == error.code


# ---------------------------------------------------------------- records of another version


def spoil(scene: Scene, table: str, column: str) -> None:
    with scene.database.transaction() as connection:
        spoiled = update(tables.metadata.tables[table]).values({column: NEWER})
        assert connection.execute(spoiled).rowcount == 1


READERS: dict[tuple[str, str], Callable[[Scene], object]] = {
    ("lash_turns", "result"): lambda scene: SqlSessionStore(scene.database).turns(SESSION),
    ("lash_agents", "snapshot"): lambda scene: SqlFleet(scene.database).snapshot("support", agent().ref()),
}


@pytest.mark.shows("E3")
@pytest.mark.raises_code("unsupported_record_schema_version")
@pytest.mark.parametrize(("table", "column"), READERS)
def test_a_record_of_another_version_is_refused_with_both_numbers_and_stays(
    scene: Scene, table: str, column: str
) -> None:
    serve(scene.database)
    scene.send()
    scene.committed(scene.open(), nodes=(node(1),))
    spoil(scene, table, column)
    before = scene.everything()

    with pytest.raises(UnsupportedRecordSchemaVersion) as refused:
        READERS[table, column](scene)

    assert refused.value.args[1:] == (9, 1)
    assert " 9, this code reads 1" in str(refused.value)
    assert scene.everything() == before


@pytest.mark.shows("E3")
def test_tables_of_an_older_version_are_refused_with_both_revisions_and_stay(scene: Scene) -> None:
    scene.send(session_id=SessionId("another"))
    before = scene.everything()

    with pytest.raises(SchemaBehind) as refused:
        behind(scene)

    assert refused.value.args == ("0000_before", schema.head())
    assert scene.everything() == before
