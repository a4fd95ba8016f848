"""`FrameStore`: the frames of a session, and what each of them holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lash_tasks.domain.frames import FrameRecord, FrameStatus, initial_frame_id
from lash_tasks.domain.ids import NodeId, SessionId
from lash_tasks.stores.protocols import CommitRefused, Committed, FrameOpening, FrameStore
from lash_tasks.stores.sql.frames import SqlFrameStore
from tests.conformance.arrange import SESSION, Scene, node

INITIAL = initial_frame_id(SESSION)


@pytest.fixture
def store(scene: Scene) -> FrameStore:
    return SqlFrameStore(scene.database)


def opens(scene: Scene, frame_id: str, previous: str | None = None, **fields: Any) -> Committed | CommitRefused:
    """A turn that opens a frame with one seed."""
    scene.send()
    turn = scene.open()
    seed = replace(node(2), node_id=NodeId(f"seed-{frame_id}"), frame_id=frame_id)
    given = {"reason": "plan_mode", "assignment": '{"agent":"support","usage_source":"planner"}', **fields}
    frame = FrameOpening(frame_id=frame_id, previous_id=previous, nodes=(seed,), **given)
    said = replace(node(1), node_id=NodeId(f"said-before-{frame_id}"), frame_id=turn.frame_id)
    return scene.commit(turn, nodes=(said,), frame=frame)


def ids(frames: list[FrameRecord]) -> list[tuple[str, str | None, FrameStatus]]:
    return [(frame.frame_id, frame.previous_frame_id, frame.status) for frame in frames]


def held(store: FrameStore, frame_id: str) -> list[str]:
    return [stored.node.node_id for stored in store.history(SESSION, frame_id)]


def test_a_session_that_never_switched_has_its_initial_frame(scene: Scene, store: FrameStore) -> None:
    scene.send()
    turn = scene.open()
    assert isinstance(scene.commit(turn), Committed)

    [frame] = store.frames(SESSION)
    assert (frame.frame_id, frame.status, frame.reason) == (INITIAL, FrameStatus.ACTIVE, "initial")
    assert frame.assignment == {"agent": turn.intent.agent}
    assert store.frame(SESSION, INITIAL) == frame


@pytest.mark.shows("F1")
def test_frames_are_a_chain_whose_last_one_is_active(scene: Scene, store: FrameStore) -> None:
    opens(scene, "plan")
    opens(scene, "pay", "plan")

    assert ids(store.frames(SESSION)) == [
        (INITIAL, None, FrameStatus.SUPERSEDED),
        ("plan", INITIAL, FrameStatus.SUPERSEDED),
        ("pay", "plan", FrameStatus.ACTIVE),
    ]
    assert [held(store, frame_id) for frame_id in (INITIAL, "plan", "pay")] == [
        ["said-before-plan"],
        ["seed-plan", "said-before-pay"],
        ["seed-pay"],
    ]
    scene.send()
    assert [stored.node.node_id for stored in scene.open().history] == ["seed-pay"]


@pytest.mark.shows("F3")
def test_a_frame_comes_back_as_it_was_opened(scene: Scene, store: FrameStore) -> None:
    opens(scene, "plan", caused_by='{"turn_id":"t1"}')

    frame = store.frame(SESSION, "plan")
    assert frame is not None
    assert (frame.reason, frame.caused_by) == ("plan_mode", {"turn_id": "t1"})
    assert frame.assignment == {"agent": "support", "usage_source": "planner"}
    assert frame.opened_revision == 1


@pytest.mark.shows("F2")
def test_a_frame_is_opened_once(scene: Scene, store: FrameStore) -> None:
    opens(scene, "plan")
    before = store.frames(SESSION)

    assert opens(scene, "plan", "plan") is CommitRefused.CONFLICT
    assert store.frames(SESSION) == before
    assert held(store, "plan") == ["seed-plan"]


def test_what_is_not_there_has_no_frames(scene: Scene, store: FrameStore) -> None:
    opens(scene, "plan")

    assert store.frames(SessionId("unknown")) == []
    assert store.frame(SESSION, "unknown") is None
    assert store.frame(SessionId("unknown"), "plan") is None
    assert store.history(SESSION, "unknown") == []
