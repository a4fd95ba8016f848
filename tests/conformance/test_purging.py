"""`SessionStore.delete` with `purge`: images, states and large results go at once, unless another session has them."""

from __future__ import annotations

from lash_tasks.domain.ids import SessionId, blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.stores.protocols import StateWrite
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import SESSION, Scene
from tests.conformance.inputs import OTHER_SESSION, draft, serve


def left(scene: Scene) -> set[str]:
    return {row["ref"] for row in scene.rows(tables.blobs)}


def run_turn(scene: Scene, session_id: SessionId, *outcomes: bytes, states: tuple[bytes, ...]) -> None:
    """A turn with large results that leaves states of plugins."""
    scene.send(session_id=session_id)
    turn = scene.open(session_id=session_id)
    for number, outcome in enumerate(outcomes):
        scene.record(turn, f"call-{number}", ordinal=number, outcome=outcome)
    writes = (StateWrite(f"plugin:{number}", 1, body) for number, body in enumerate(states))
    scene.committed(turn, states=tuple(writes))


def test_a_purge_takes_the_images_that_only_the_session_had(scene: Scene) -> None:
    serve(scene.database)
    sessions = SqlSessionStore(scene.database)
    queue = SqlInputQueue(scene.database)
    own, shared = (Blob(blob_ref(content), content) for content in (b"own", b"shared"))
    queue.enqueue(draft(SESSION, blobs=(own, shared)))
    queue.enqueue(draft(OTHER_SESSION, blobs=(shared,)))
    scene.clock.advance(1)
    sessions.delete(SESSION, purge=True)
    assert left(scene) == {shared.ref}
    scene.clock.advance(1)
    sessions.delete(OTHER_SESSION)
    assert left(scene) == {shared.ref}


def test_a_purge_takes_the_states_and_the_large_results_that_only_the_session_had(scene: Scene) -> None:
    sessions = SqlSessionStore(scene.database)
    own, shared = b"x" * 200_000, b"y" * 200_000
    run_turn(scene, SESSION, own, shared, states=(b"its own", b"the same"))
    run_turn(scene, OTHER_SESSION, shared, states=(b"the same",))
    assert len(left(scene)) == 4
    scene.clock.advance(1)
    sessions.delete(SESSION, purge=True)
    assert left(scene) == {blob_ref(shared), blob_ref(b"the same")}
    scene.clock.advance(1)
    sessions.delete(OTHER_SESSION, purge=True)
    assert left(scene) == set()
