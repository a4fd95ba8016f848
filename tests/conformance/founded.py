"""What the tests of sessions that are created, forked and begun anew arrange and look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from lash_tasks.domain.founding import NewSession
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import text_of
from lash_tasks.stores.protocols import (
    FrameOpening,
    PathChange,
    StateWrite,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fencing import lock_fence
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import SESSION, Scene, node

CHILD, OTHER = SessionId("child"), SessionId("other")


def new(session_id: SessionId = CHILD, **fields: Any) -> NewSession:
    return NewSession(session_id=session_id, **fields)


def fork(source: SessionId = SESSION, **fields: Any) -> NewSession:
    return new(**{"parent_id": source, "source_id": source, **fields})


def run_turn(scene: Scene, number: int, session_id: SessionId = SESSION, **changes: Any) -> None:
    """A turn that says one thing, behind what was said before."""
    scene.send(session_id=session_id)
    turn = scene.open(session_id=session_id)
    leaf = turn.history[-1] if turn.history else None
    parent = leaf.node.node_id if leaf else None
    added = replace(node(number, f"said {number}"), parent_id=parent, frame_id=turn.frame_id)
    scene.committed(turn, **{"nodes": (added,), "leaf": leaf.place if leaf else None, **changes})


def live_through_everything(scene: Scene) -> int:
    """Let SESSION have a branch, a later frame, in which it is, and a plugin's state; its revision."""
    for number in (1, 2):
        run_turn(scene, number)
    scene.send()
    turn = scene.open()
    scene.committed(turn, path=PathChange(turn.history[0].place), states=(StateWrite("plugin:notes", 1, b"{}"),))
    scene.send()
    turn = scene.open()
    seed = replace(node(4, "seed"), parent_id=turn.history[-1].node.node_id, frame_id="f2")
    frame = FrameOpening(frame_id="f2", previous_id=None, reason="plan", assignment="{}", nodes=(seed,))
    scene.committed(turn, leaf=turn.history[-1].place, frame=frame)
    run_turn(scene, 5)
    return 5


@contextmanager
def committing_elsewhere(scene: Scene, database_url: str) -> Iterator[Connection]:
    """A transaction with the fence of SESSION, as that of a commit."""
    other = scene.database if database_url == "sqlite://" else Database.open(database_url, now_ms=scene.clock.now_ms)
    with other.transaction() as connection:
        lock_fence(connection, SESSION)
        yield connection
    if other is not scene.database:
        other.close()


def last_index(scene: Scene, session_id: SessionId) -> int:
    indexes: list[int] = [row["turn_index"] for row in scene.rows(tables.turns) if row["session_id"] == session_id]
    return max(indexes)


def said(sessions: SqlSessionStore, session_id: SessionId) -> list[str]:
    found = (stored.node.message for stored in sessions.history(session_id))
    return [text_of(message) for message in found if message is not None]
