"""A snapshot shows all of a session that is committed, and nothing of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import insert

from lash_tasks.domain.codec import JsonValue, canonical, parse
from lash_tasks.domain.frames import FrameSwitch, initial_frame_id, read_seeds
from lash_tasks.domain.ids import ReplayKey, SessionId, blob_ref
from lash_tasks.domain.sessions import SessionHead
from lash_tasks.domain.snapshots import SessionSnapshot
from lash_tasks.domain.usage import TokenLedgerEntry, TokenUsage, UsageEntry
from lash_tasks.errors import NotFound
from lash_tasks.observation.snapshots import SnapshotSources, take_snapshot
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.graph import SqlGraphStore
from tests.scene import SESSION, Scene

RUNTIME_ONLY = {
    "head_revision",
    "graph_replace_required",
    "tool_state_snapshot",
    "plugin_snapshot",
    "execution_state_snapshot",
    "fence",
    "holder",
}


def sources(scene: Scene) -> SnapshotSources:
    return SnapshotSources(scene.sessions, scene.frames, SqlGraphStore(scene.database))


def snapshot(scene: Scene) -> SessionSnapshot:
    return take_snapshot(sources(scene), SESSION, {"model": "scripted:small"})


def keys(value: JsonValue) -> Iterator[str]:
    """Every name of a field, however deep."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


@pytest.fixture
def switched(scene: Scene) -> Scene:
    """A session with two frames, the second of which has answered."""
    scene.send("plan it")
    scene.commit(scene.open(), "planning", switch=FrameSwitch("plan", "book it", read_seeds(["a trip"])))
    opened = scene.open()
    entry = UsageEntry(ReplayKey(f"{SESSION}:{opened.intent.turn_id}:2:0:llm_call:2"), "turn", "m", TokenUsage(30, 5))
    scene.commit(opened, "booked", usage=(entry,))
    return scene


def remember(scene: Scene, body: bytes) -> None:
    """Leave the state of a plugin behind, as a turn's commit does."""
    ref = blob_ref(body)
    with scene.database.transaction() as connection:
        connection.execute(insert(tables.blobs).values(ref=ref, content=body))
        state = {"session_id": SESSION, "name": "plugin:watch", "generation": 3, "ref": ref}
        connection.execute(insert(tables.states).values(**state))


@pytest.mark.shows("C1")
def test_it_carries_nothing_that_only_a_running_worker_knows(switched: Scene) -> None:
    remember(switched, b"the body")
    data = snapshot(switched).as_json()

    assert parse(canonical(data)) == data
    assert not RUNTIME_ONLY & set(keys(data))
    assert [frame["frame_id"] for frame in data["agent_frames"]] == [initial_frame_id(SESSION), "plan"]
    assert data["states"] == [{"name": "plugin:watch", "generation": 3, "ref": blob_ref(b"the body")}]
    assert b"the body" not in canonical(data)


def test_it_shows_frames_nodes_and_usage(switched: Scene) -> None:
    taken = snapshot(switched)

    assert (taken.session_id, taken.agent, taken.turn_index) == (SESSION, "support", 2)
    assert taken.current_agent_frame_id == "plan"
    assert [(node.node_id, node.agent_frame_id) for node in taken.session_graph.nodes] == [
        ("m1.1", initial_frame_id(SESSION)),
        ("m1.2", "plan"),
        ("m2.1", "plan"),
    ]
    assert taken.session_graph.leaf_node_id == "m2.1"
    assert (taken.relation, taken.policy) == ({"kind": "root"}, {"model": "scripted:small"})
    assert taken.token_ledger == (TokenLedgerEntry("turn", "m", TokenUsage(30, 5)),)
    assert taken.last_prompt_usage is not None
    assert taken.last_prompt_usage.prompt_context_tokens == 30


def test_a_session_that_is_not_there_has_none(scene: Scene) -> None:
    with pytest.raises(NotFound):
        snapshot(scene)
    scene.send()
    scene.answer()
    scene.sessions.delete(SESSION)
    with pytest.raises(NotFound):
        snapshot(scene)


def test_a_session_that_commits_meanwhile_is_read_again(switched: Scene) -> None:
    class Commits:
        """The head of a session that moves on while it is first looked at."""

        def __init__(self) -> None:
            self.looks = 0

        def head(self, session_id: SessionId) -> SessionHead | None:
            self.looks += 1
            if self.looks == 2:
                switched.send("one more")
                switched.answer("there")
            return switched.sessions.head(session_id)

        def __getattr__(self, name: str) -> object:
            return getattr(switched.sessions, name)

    moving: JsonValue = Commits()
    taken = take_snapshot(replace(sources(switched), sessions=moving), SESSION)
    assert (taken.turn_index, taken.session_graph.leaf_node_id) == (3, "m3.1")
