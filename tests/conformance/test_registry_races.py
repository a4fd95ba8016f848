"""`SessionRegistry` beside others: who waits for whom, and what somebody else has left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks.domain.founding import NewSession
from lash_tasks.domain.ids import SessionId, blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.errors import SessionAlreadyExists
from lash_tasks.stores.sql.attachments import SqlAttachmentStore
from lash_tasks.stores.sql.fencing import lock_fence
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import Scene
from tests.conformance.inputs import draft, serve, start_and_wait
from tests.conformance.test_attachment_store import shows

A, B = SessionId("a"), SessionId("b")


@pytest.fixture
def registry(scene: Scene) -> SqlSessionRegistry:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    serve(scene.database)
    return SqlSessionRegistry(scene.database)


def test_who_creates_what_is_there_is_told_so_without_waiting(
    scene: Scene, registry: SqlSessionRegistry, beside: ThreadPoolExecutor
) -> None:
    """Forks of one another that both exist shared each the other's fence and waited for their own."""
    for session_id in (A, B):
        registry.create(NewSession(session_id=session_id))
    with scene.database.transaction() as connection:
        for session_id in (A, B):
            lock_fence(connection, session_id)
        creating = beside.submit(registry.create, NewSession(session_id=A, source_id=B))
        assert isinstance(creating.exception(timeout=8), SessionAlreadyExists)


def test_a_fork_locks_in_the_order_of_the_names_whichever_is_its_source(
    scene: Scene, registry: SqlSessionRegistry, beside: ThreadPoolExecutor
) -> None:
    registry.create(NewSession(session_id=B))
    with scene.database.transaction() as connection:
        lock_fence(connection, A)
        forking = start_and_wait(scene.database, beside, lambda: registry.create(NewSession(session_id=A, source_id=B)))
        lock_fence(connection, B)
    assert forking.result(timeout=20).session_id == A


def test_a_fork_takes_the_images_of_its_source_where_a_sender_has_left_one_of_them(
    scene: Scene, registry: SqlSessionRegistry, beside: ThreadPoolExecutor
) -> None:
    """It had raced the deletion of the session that the fork's name belonged to."""
    queue, blob = SqlInputQueue(scene.database), Blob(blob_ref(b"logo"), b"logo")
    queue.enqueue(draft(B, blobs=(blob,)))
    opened = scene.open(session_id=B)
    scene.committed(opened, nodes=shows(opened, b"logo"))
    registry.create(NewSession(session_id=A))
    with scene.database.transaction() as connection:
        queue.enqueue_with(connection, draft(A, blobs=(blob,)))
        assert beside.submit(SqlSessionStore(scene.database).delete, A).result(timeout=20)
    registry.create(NewSession(session_id=A, source_id=B))
    assert SqlAttachmentStore(scene.database).committed(A) == [blob.ref]
