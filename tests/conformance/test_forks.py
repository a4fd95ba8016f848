"""`SessionRegistry`: a fork begins with what its source shows, and goes its own way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import insert, update

from lash_tasks.domain.frames import read_seeds
from lash_tasks.domain.ids import NodeId, ReplayKey
from lash_tasks.domain.usage import TokenUsage, UsageEntry
from lash_tasks.stores.protocols import FrameOpening, PathChange
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.graph import SqlGraphStore
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import SESSION, Scene, node
from tests.conformance.founded import CHILD, committing_elsewhere, fork, last_index, run_turn, said
from tests.conformance.inputs import serve, start_and_wait


@pytest.fixture
def registry(scene: Scene) -> SqlSessionRegistry:
    serve(scene.database)
    return SqlSessionRegistry(scene.database)


@pytest.fixture
def sessions(scene: Scene) -> SqlSessionStore:
    return SqlSessionStore(scene.database)


@pytest.mark.shows("S12", "S13")
def test_a_fork_shows_what_its_parent_shows_and_goes_on_counting(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    for number in (1, 2):
        run_turn(scene, number)
    parent = sessions.head(SESSION)
    child = registry.create(fork(seeds=read_seeds(["go on alone"])))
    assert said(sessions, CHILD) == ["said 1", "said 2", "go on alone"]
    assert (child.turn_index, child.head_revision) == (2, 1)
    assert sessions.head(SESSION) == parent
    run_turn(scene, 3, CHILD)
    run_turn(scene, 4)
    assert said(sessions, CHILD) == ["said 1", "said 2", "go on alone", "said 3"]
    assert said(sessions, SESSION) == ["said 1", "said 2", "said 4"]
    assert last_index(scene, SESSION) == 3
    assert last_index(scene, CHILD) == 3


@pytest.mark.shows("S12")
def test_a_fork_during_its_parents_turn_sees_what_is_committed(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    run_turn(scene, 1)
    scene.send()
    turn = scene.open()
    registry.create(fork())
    assert said(sessions, CHILD) == ["said 1"]
    scene.committed(turn, nodes=(replace(node(2, "said 2"), parent_id=node(1).node_id),), leaf=turn.history[-1].place)
    assert said(sessions, CHILD) == ["said 1"]
    assert said(sessions, SESSION) == ["said 1", "said 2"]


@pytest.mark.shows("S12")
def test_a_fork_has_the_attachments_of_its_source_and_none_of_its_usage(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    run_turn(scene, 1, usage=(UsageEntry(ReplayKey("k"), "turn", "m", TokenUsage(5, 1)),))
    row = {"session_id": SESSION, "ref": "r", "intent_at_ms": 1, "committed_at_ms": 2}
    with scene.database.transaction() as connection:
        connection.execute(insert(tables.attachments).values(row))
    registry.create(fork())
    assert {**row, "session_id": CHILD} in scene.rows(tables.attachments)
    assert sessions.usage(CHILD) == []


@pytest.mark.shows("S12")
def test_a_fork_of_a_session_in_a_later_frame_shows_that_frame_in_its_initial_one(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    run_turn(scene, 1)
    scene.send()
    turn = scene.open()
    seed = node(2, "seed")
    frame = FrameOpening(frame_id="f2", previous_id=None, reason="plan", assignment="{}", nodes=(seed,))
    scene.committed(turn, leaf=turn.history[-1].place, frame=frame)
    run_turn(scene, 3)
    registry.create(fork())
    assert said(sessions, CHILD) == ["seed", "said 3"]
    assert {row["frame_id"] for row in scene.rows(tables.nodes) if row["session_id"] == CHILD} == {None}
    scene.send(session_id=CHILD)
    assert scene.open(session_id=CHILD).frame_id is None


@pytest.mark.shows("S12")
def test_a_fork_of_a_session_with_branches_shows_the_active_one(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    for number in (1, 2):
        run_turn(scene, number)
    scene.send()
    turn = scene.open()
    scene.committed(turn, path=PathChange(turn.history[0].place))
    run_turn(scene, 4)
    registry.create(fork())
    assert said(sessions, SESSION) == said(sessions, CHILD) == ["said 1", "said 4"]


@pytest.mark.shows("S12")
def test_a_fork_shows_neither_what_was_said_before_a_reset_nor_what_is_hidden(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    run_turn(scene, 1)
    scene.send()
    scene.committed(scene.open(), path=PathChange(None))
    for number in (3, 4):
        run_turn(scene, number)
    SqlGraphStore(scene.database).tombstone(SESSION, [NodeId("m4")])
    registry.create(fork())
    assert said(sessions, SESSION) == said(sessions, CHILD) == ["said 3"]


@pytest.mark.shows("S12")
def test_a_fork_waits_for_its_parents_commit_that_is_under_way(
    scene: Scene, registry: SqlSessionRegistry, database_url: str, beside: ThreadPoolExecutor
) -> None:
    run_turn(scene, 1)
    with committing_elsewhere(scene, database_url) as connection:
        forking = start_and_wait(scene.database, beside, lambda: registry.create(fork()))
        connection.execute(update(tables.sessions).where(tables.sessions.c.id == SESSION).values(turn_index=9))
    assert forking.result(30).turn_index == 9


@pytest.mark.shows("S12", "S17")
def test_a_fork_under_an_id_that_was_used_before_goes_on_counting_from_the_higher_turn(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    run_turn(scene, 1)
    former = registry.create(fork())
    for number in (2, 3):
        run_turn(scene, number, CHILD)
    sessions.delete(CHILD)
    again = registry.create(fork())
    assert (former.turn_index, again.turn_index) == (1, 3)
    assert said(sessions, CHILD) == ["said 1"]
