"""What a commit changes about a session besides its history: frame, path, spec, states, and the turn that follows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from lash_tasks.domain.ids import NodeId, TurnId, blob_ref
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.sessions import Node, Place, transcript
from lash_tasks.stores.protocols import (
    CommitRefused,
    Committed,
    FollowUp,
    FrameOpening,
    OpenedTurn,
    PathChange,
    SpecChange,
    StateWrite,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.blobs import SqlBlobStore
from tests.conformance.arrange import BOB, MACHINE_VERSION, SESSION, Scene, node
from tests.conformance.inputs import draft, start_and_wait

FOLLOW_UP = FollowUp(
    turn_id=TurnId("turn:agent-frame:1"),
    batch=draft(SESSION, agent="support"),
    agent_ref="ref-1",
    machine_version=MACHINE_VERSION,
)


def turn(scene: Scene, known_revision: int = 0) -> OpenedTurn:
    scene.send()
    return scene.open(known_revision=known_revision)


def grow(scene: Scene, *numbers: int, leaf: Place | None = None, **changed: Any) -> Committed:
    """A whole turn that adds these nodes, each behind the one before it."""
    opened = turn(scene)
    parents: Sequence[int | None] = (None if leaf is None else 0, *numbers)
    nodes = tuple(node(number, str(number), parent=parent) for number, parent in zip(numbers, parents, strict=False))
    return scene.committed(opened, nodes=nodes, leaf=leaf, stamp=f"stamp-{opened.intent.turn_index}", **changed)


def shown(opened: OpenedTurn) -> list[str]:
    return [text_of(message) for message in transcript(stored.node for stored in opened.history)]


def seen(scene: Scene, known_revision: int = 0) -> tuple[list[str], bool]:
    """What the next turn is opened with; nothing of it stays."""
    opened = turn(scene, known_revision)
    scene.committed(opened, stamp=f"stamp-{opened.intent.turn_index}")
    return shown(opened), opened.whole


# ---------------------------------------------------------------- the path


def test_a_cold_opening_is_given_all_and_a_warm_one_what_is_newer(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, 3, leaf=Place(1, 1))
    assert seen(scene) == (["1", "2", "3"], True)
    assert seen(scene, known_revision=1) == (["3"], False)
    assert seen(scene, known_revision=2) == ([], False)


def test_only_the_first_node_of_a_commit_says_where_it_hangs(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, 3, 4, leaf=Place(1, 1))
    parents = {row["node_id"]: (row["parent_revision"], row["parent_ordinal"]) for row in scene.rows(tables.nodes)}
    assert parents == {"m1": (None, None), "m2": (None, None), "m3": (1, 1), "m4": (None, None)}


def test_a_branch_shows_the_way_to_its_leaf_and_what_grows_from_there(scene: Scene) -> None:
    grow(scene, 1, 2, 3)
    grow(scene, 4, 5, leaf=Place(1, 2))
    grow(scene, path=PathChange(Place(1, 1)))
    assert seen(scene) == (["1", "2"], True)
    grow(scene, 6, leaf=Place(1, 1))
    grow(scene, 7, leaf=Place(5, 0))
    assert seen(scene) == (["1", "2", "6", "7"], True)


def test_who_knew_the_path_before_a_branch_is_given_all_of_the_new_one(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, 3, leaf=Place(1, 1))
    grow(scene, path=PathChange(Place(1, 1)))
    grow(scene, 4, leaf=Place(1, 1))
    assert seen(scene, known_revision=2) == (["1", "2", "4"], True)
    assert seen(scene, known_revision=3) == (["4"], False)
    assert seen(scene, known_revision=4) == ([], False)


def test_a_turn_without_messages_leaves_the_leaf_where_a_branch_has_put_it(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, path=PathChange(Place(1, 0)))
    grow(scene)
    assert seen(scene) == (["1"], True)


def test_a_branch_may_go_back_to_where_another_has_left(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, path=PathChange(Place(1, 0)))
    grow(scene, 3, leaf=Place(1, 0))
    grow(scene, path=PathChange(Place(1, 1)))
    assert seen(scene) == (["1", "2"], True)
    grow(scene, path=PathChange(Place(3, 0)))
    assert seen(scene) == (["1", "3"], True)


def test_a_path_that_begins_anew_shows_nothing_older(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, path=PathChange(None))
    assert seen(scene, known_revision=1) == ([], True)
    grow(scene, 3)
    assert seen(scene) == (["3"], True)
    assert scene.count(tables.nodes) == 3


def test_a_branch_reaches_back_beyond_where_the_path_began_anew(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, path=PathChange(None))
    grow(scene, 3)
    grow(scene, path=PathChange(Place(1, 0)))
    assert seen(scene) == (["1"], True)


def test_a_branch_to_a_node_that_is_not_there_lands_nothing(scene: Scene) -> None:
    grow(scene, 1)
    opened = turn(scene)
    before = scene.everything()
    assert scene.commit(opened, path=PathChange(Place(1, 7)), nodes=(node(2),)) is CommitRefused.CONFLICT
    assert scene.everything() == before


def test_nodes_of_before_places_were_written_are_walked_too(scene: Scene) -> None:
    """Then a commit's first node named its parent, the last node before it, and nothing else."""
    grow(scene, 1, 2)
    grow(scene, 3, 4, leaf=Place(1, 1))
    with scene.database.transaction() as connection:
        connection.execute(tables.nodes.update().values(parent_revision=None, parent_ordinal=None))
    grow(scene, path=PathChange(Place(2, 0)))
    assert seen(scene) == (["1", "2", "3"], True)


def test_a_leaf_that_is_not_there_heals_to_the_last_message(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, path=PathChange(Place(1, 0)))
    with scene.database.transaction() as connection:
        connection.execute(tables.sessions.update().values(leaf_revision=9, leaf_ordinal=9))
    assert seen(scene) == (["1", "2"], True)


# ---------------------------------------------------------------- frames


def opening(frame_id: str, *nodes: Node) -> FrameOpening:
    return FrameOpening(
        frame_id=frame_id, previous_id=None, reason="plan_mode", assignment='{"n":1}', caused_by="{}", nodes=nodes
    )


def test_a_frame_shows_its_seed_and_what_comes_later_and_nothing_older(scene: Scene) -> None:
    grow(scene, 1, frame=opening("f2", node(8, "seed", parent=1)))
    opened = turn(scene)
    assert (opened.frame_id, shown(opened), opened.whole) == ("f2", ["seed"], True)
    tagged = Node(NodeId("m2"), NodeId("m8"), node(2, "in it").content, "f2")
    scene.committed(opened, nodes=(tagged,), leaf=Place(1, 1), stamp="stamp-2")
    assert seen(scene) == (["seed", "in it"], True)
    assert [(row["revision"], row["ordinal"], row["frame_id"]) for row in scene.rows(tables.nodes)] == [
        (1, 0, None),
        (1, 1, "f2"),
        (2, 0, "f2"),
    ]


def test_a_frame_keeps_how_it_came_about(scene: Scene) -> None:
    grow(scene, frame=opening("f2"))
    assert scene.rows(tables.frames) == [
        {
            "session_id": SESSION,
            "frame_id": "f2",
            "previous_id": None,
            "reason": "plan_mode",
            "caused_by": "{}",
            "assignment": '{"n":1}',
            "opened_revision": 1,
            "created_at_ms": scene.clock.now_ms(),
        }
    ]


def test_the_seed_of_a_branched_session_hangs_from_its_leaf(scene: Scene) -> None:
    grow(scene, 1, 2)
    grow(scene, path=PathChange(Place(1, 0)))
    grow(scene, leaf=Place(1, 0), frame=opening("f2", node(8, "seed", parent=1)))
    assert seen(scene) == (["seed"], True)


def test_a_frame_that_is_there_already_lands_nothing(scene: Scene) -> None:
    grow(scene, frame=opening("f2"))
    opened = turn(scene)
    before = scene.everything()
    assert scene.commit(opened, frame=opening("f2"), states=(StateWrite("a", 1, b"x"),)) is CommitRefused.CONFLICT
    assert scene.everything() == before


# ---------------------------------------------------------------- spec and states


def test_a_spec_stays_until_it_is_changed(scene: Scene) -> None:
    assert turn_and_commit(scene, spec=SpecChange('{"a":1}')).spec is None
    assert turn_and_commit(scene).spec == '{"a":1}'
    assert turn_and_commit(scene, spec=SpecChange(None)).spec == '{"a":1}'
    assert turn_and_commit(scene).spec is None


def turn_and_commit(scene: Scene, **changed: Any) -> OpenedTurn:
    opened = turn(scene)
    scene.committed(opened, stamp=f"stamp-{opened.intent.turn_index}", **changed)
    return opened


def test_states_are_carried_unless_they_are_written(scene: Scene) -> None:
    turn_and_commit(scene, states=(StateWrite("a", 1, b"one"), StateWrite("b", 9, b"nine")))
    turn_and_commit(scene)
    turn_and_commit(scene, states=(StateWrite("a", 2, b"two"),))
    kept = {row["name"]: (row["generation"], row["ref"]) for row in scene.rows(tables.states)}
    assert kept == {"a": (2, blob_ref(b"two")), "b": (9, blob_ref(b"nine"))}
    bodies = {row["content"]: row["touched_at_ms"] for row in scene.rows(tables.blobs)}
    assert bodies == dict.fromkeys((b"one", b"two", b"nine"), scene.clock.now_ms())
    turn_and_commit(scene, states=(StateWrite("b", 10, None),))
    assert [row["name"] for row in scene.rows(tables.states)] == ["a"]


# ---------------------------------------------------------------- the turn that follows


def test_a_follow_up_runs_before_what_waits_and_with_its_own_input(scene: Scene) -> None:
    opened = turn(scene)
    waiting = scene.send("waiting")
    committed = scene.committed(opened, nodes=(node(1, "1"),), follow_up=FOLLOW_UP)
    assert committed.more

    following = scene.open(BOB)
    intent = following.intent
    assert (intent.turn_id, intent.turn_index, intent.base_revision) == (FOLLOW_UP.turn_id, 2, 1)
    assert (intent.agent, intent.agent_ref, intent.machine_version) == ("support", "ref-1", MACHINE_VERSION)
    assert (following.resumed, following.attempt, following.journal) == (True, 1, ())
    assert [batch.payload for batch in following.batches] == [FOLLOW_UP.batch.payload]
    assert shown(following) == ["1"]
    assert scene.batch(FOLLOW_UP.batch.id) == (BatchState.CLAIMED, FOLLOW_UP.turn_id)

    scene.committed(following, stamp="stamp-2")
    assert scene.batch(FOLLOW_UP.batch.id) == (BatchState.CONSUMED, FOLLOW_UP.turn_id)
    assert scene.open().intent.batch_ids == (waiting,)


def test_a_follow_up_is_there_without_any_waiting_input(scene: Scene) -> None:
    assert scene.committed(turn(scene), follow_up=FOLLOW_UP).more
    assert scene.open().intent.turn_id == FOLLOW_UP.turn_id


def test_who_asks_a_turn_to_stop_while_it_switches_stops_the_turn_that_follows(scene: Scene) -> None:
    """The interruption came after the model's last word and before the commit, which took it for heard. The run that
    was to be stopped went on in the next frame, for as many switches as it liked."""
    opened = turn(scene)
    assert scene.store.request_cancel(opened.intent.session_id, opened.intent.turn_id, "enough")
    scene.committed(opened, follow_up=FOLLOW_UP)
    following = scene.open()
    assert (following.intent.turn_id, following.cancel) == (FOLLOW_UP.turn_id, True)
    scene.committed(following, stamp="stamp-2")
    assert scene.count(tables.turn_cancels) == 0


# ---------------------------------------------------------------- whole or not at all


def everything() -> dict[str, Any]:
    return {
        "nodes": (node(1),),
        "states": (StateWrite("a", 1, b"one"),),
        "spec": SpecChange("{}"),
        "frame": opening("f2", node(2)),
        "path": PathChange(None),
        "follow_up": FOLLOW_UP,
    }


def test_all_changes_land_together(scene: Scene) -> None:
    opened = turn(scene)
    scene.committed(opened, **everything())
    [session] = scene.rows(tables.sessions)
    names = ("head_revision", "spec", "frame_id", "path_revision", "visible_from", "branched")
    assert [session[name] for name in names] == [1, "{}", "f2", 1, 2, False]
    assert [scene.count(table) for table in (tables.states, tables.frames, tables.nodes, tables.turns)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"base_revision": 1}, CommitRefused.HEAD_CONFLICT),
        ({"batch_ids": ()}, CommitRefused.CLAIM_EXPIRED),
        ({"fence": 0}, CommitRefused.FENCED),
        ({"path": PathChange(Place(7, 7))}, CommitRefused.CONFLICT),
    ],
)
def test_a_commit_that_is_refused_changes_nothing(
    scene: Scene, changed: dict[str, Any], refused: CommitRefused
) -> None:
    opened = turn(scene)
    before = scene.everything()
    assert scene.commit(opened, **(everything() | changed)) is refused
    assert scene.everything() == before
    assert isinstance(scene.commit(opened, **everything()), Committed)


def test_a_repeat_of_a_commit_that_changed_much_says_so(scene: Scene) -> None:
    opened = turn(scene)
    scene.committed(opened, **everything())
    before = scene.everything()
    assert scene.commit(opened, **everything()) is CommitRefused.ALREADY
    assert scene.everything() == before


def test_input_that_may_join_holds_back_a_commit_that_changes_much(scene: Scene) -> None:
    opened = turn(scene)
    scene.inject()
    before = scene.everything()
    assert scene.commit(opened, **everything(), refuse_if_joinable=True) is CommitRefused.JOINABLE
    assert scene.everything() == before


def test_states_are_written_in_the_order_of_their_refs_however_the_commit_names_them(
    scene: Scene, beside: ThreadPoolExecutor
) -> None:
    """Two plugins whose states two sessions had swapped, say, locked them crosswise, and one commit failed."""
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first, last = sorted((b"one", b"two"), key=blob_ref)
    SqlBlobStore(scene.database).put([first, last])
    opened = turn(scene)
    states = (StateWrite("a", 1, last), StateWrite("b", 1, first))
    lock = "SELECT ref FROM lash_blobs WHERE ref = :ref FOR UPDATE"
    with scene.database.transaction() as connection:
        connection.execute(text(lock), {"ref": blob_ref(first)})
        committing = start_and_wait(scene.database, beside, lambda: scene.commit(opened, states=states))
        connection.execute(text(f"{lock} NOWAIT"), {"ref": blob_ref(last)})
    assert isinstance(committing.result(timeout=20), Committed)
