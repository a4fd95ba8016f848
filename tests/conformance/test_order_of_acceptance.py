"""The place of an input in its session's line, when its sender's transaction is open for long."""

from __future__ import annotations

import pytest

from lash_tasks.stores.sql.queue import SqlInputQueue
from tests.conformance.arrange import Scene
from tests.conformance.inputs import draft, serve


def test_an_input_has_its_place_from_when_it_was_sent_and_not_from_its_callers_commit(scene: Scene) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    serve(scene.database)
    queue = SqlInputQueue(scene.database)
    first, second, third = draft(), draft(), draft()
    with scene.database.transaction() as connection:
        queue.enqueue_with(connection, second)
        for other in (first, third):
            queue.enqueue(other)
        begun = scene.open()
        assert begun.intent.batch_ids == (first.id,), "what is not committed holds nothing up"
    scene.committed(begun)
    assert scene.open().intent.batch_ids == (second.id,), "sent before the third, and accepted after it"
