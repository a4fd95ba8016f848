"""A verb that fails at any of its statements, or in the middle of one, leaves every table as it was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from lash_tasks.domain.ids import MessageId, NodeId, ReplayKey, TurnId, blob_ref
from lash_tasks.domain.messages import ImagePart, Message, Role
from lash_tasks.domain.sessions import Node, Place
from lash_tasks.domain.usage import TokenUsage, UsageEntry
from lash_tasks.errors import StoreUnavailable
from lash_tasks.stores.protocols import (
    CheckpointTaken,
    Committed,
    FollowUp,
    FrameOpening,
    OpenedTurn,
    PathChange,
    SpecChange,
    StateWrite,
)
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene, made, node
from tests.conformance.inputs import draft
from tests.conformance.turn_store.failing import Injected, failing_at, refusing
from tests.services import wait_until

Verb = Callable[[], object]
FAILURES = (Injected, DBAPIError, psycopg.Error)
COMMITTED_TO = [
    "lash_sessions",
    "lash_fences",
    "lash_turns",
    "lash_nodes",
    "lash_usage",
    "lash_batches",
    "lash_turn_cancels",
]
USAGE = UsageEntry(ReplayKey("call-1"), "turn", "scripted:echo", TokenUsage(10, 5, 4, 3))


def opening(scene: Scene) -> Verb:
    scene.send()
    return lambda: scene.open(ALICE)


def taking_over(scene: Scene) -> Verb:
    scene.send()
    scene.record(scene.open(ALICE))
    return lambda: scene.open(BOB)


def checkpoint(scene: Scene) -> Verb:
    scene.send()
    turn = scene.open(ALICE)
    scene.inject()
    return lambda: scene.checkpoint(turn)


def a_full_turn(scene: Scene) -> OpenedTurn:
    """A turn with input that joined, a cancel that waits, and a session that has a past."""
    scene.send("past")
    scene.committed(scene.open(ALICE), nodes=(node(1),))
    scene.send("opening")
    turn = scene.open(ALICE)
    scene.inject("joined")
    assert isinstance(scene.checkpoint(turn), CheckpointTaken)
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "enough")
    return turn


def committing(scene: Scene, turn: OpenedTurn, dead_reason: str | None = None) -> Committed:
    return scene.committed(
        turn,
        batch_ids=("opening", "joined"),
        nodes=(made(turn, 0), made(turn, 1)),
        usage=(USAGE,),
        stamp="stamp-2",
        dead_reason=dead_reason,
    )


def commit(scene: Scene) -> Verb:
    turn = a_full_turn(scene)
    return lambda: committing(scene, turn)


def burial(scene: Scene) -> Verb:
    turn = a_full_turn(scene)
    return lambda: committing(scene, turn, "attempts_exhausted")


def changing(scene: Scene) -> Verb:
    """A commit with everything that it may change about its session, and an image."""
    turn = a_full_turn(scene)
    seed = Node(NodeId("seed"), None, Message(MessageId("seed"), Role.USER, (ImagePart(blob_ref(b"x"), "", ""),)))
    changes = {
        "nodes": (node(1), node(2, parent=1)),  # the first is there already
        "states": (StateWrite("a", 1, b"body"), StateWrite("b", 1, None)),
        "spec": SpecChange("{}"),
        "frame": FrameOpening(frame_id="f2", previous_id=None, reason="r", assignment="{}", nodes=(seed,)),
        "path": PathChange(Place(1, 0)),
        "follow_up": FollowUp(turn_id=TurnId("next"), batch=draft(SESSION), agent_ref="ref-1", machine_version=3),
    }
    return lambda: scene.committed(turn, batch_ids=("opening", "joined"), stamp="stamp-2", **changes)


def giving_up(scene: Scene) -> Verb:
    scene.send()
    turn = scene.open(ALICE)
    return lambda: scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)


@pytest.mark.shows("T10")
@pytest.mark.parametrize("arrange", [opening, taking_over, checkpoint, commit, burial, changing, giving_up])
def test_a_failure_at_any_statement_leaves_everything_as_it_was(scene: Scene, arrange: Callable[[Scene], Verb]) -> None:
    verb = arrange(scene)
    before = scene.everything()
    statement = 0
    while True:
        with failing_at(scene.database, statement) as countdown:
            try:
                verb()
            except FAILURES:
                assert countdown.failed
        if not countdown.failed:
            break
        assert scene.everything() == before, f"statement {statement}"
        statement += 1
    assert statement > 0
    assert scene.everything() != before, "the same call, undisturbed, does its work"


@pytest.mark.shows("T10")
@pytest.mark.parametrize(
    ("arrange", "tables"),
    [
        (opening, ["lash_sessions", "lash_fences", "lash_turns", "lash_batches"]),
        (taking_over, ["lash_fences", "lash_turns"]),
        (checkpoint, ["lash_batches", "lash_effects"]),
        (
            commit,
            [
                "lash_sessions",
                "lash_fences",
                "lash_turns",
                "lash_nodes",
                "lash_usage",
                "lash_batches",
                "lash_turn_cancels",
            ],
        ),
        (burial, ["lash_batches", "lash_dead_letters"]),
        (changing, ["lash_states", "lash_frames", "lash_blobs", "lash_attachments", "lash_batches", "lash_turns"]),
    ],
)
def test_a_failure_at_any_table_in_the_middle_of_a_statement_leaves_everything_as_it_was(
    scene: Scene, arrange: Callable[[Scene], Verb], tables: list[str]
) -> None:
    verb = arrange(scene)
    before = scene.everything()
    for table in tables:
        with refusing(scene.database, table), pytest.raises(FAILURES):
            verb()
        assert scene.everything() == before, table
    verb()


@pytest.mark.shows("T10")
def test_a_backend_that_is_killed_in_the_middle_of_a_commit_leaves_everything_as_it_was(
    scene: Scene, beside: ThreadPoolExecutor
) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has no backend")
    turn = a_full_turn(scene)
    before = scene.everything()
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"

    def killed() -> int:
        with scene.database.reading() as connection:
            count: int = connection.execute(text(kill)).scalar_one()
        return count

    with refusing(scene.database, "lash_batches", sleep=60):
        answer = beside.submit(committing, scene, turn)
        assert wait_until(killed, 20, "the commit to be in its middle") == 1
        with pytest.raises(StoreUnavailable):
            answer.result(20)

    assert scene.everything() == before
    assert committing(scene, turn).revision == 2


@pytest.mark.shows("T11")
@pytest.mark.parametrize(
    "sqlstate",
    [
        pytest.param("40001", id="a failed serialization"),
        pytest.param("40P01", id="a deadlock"),
        pytest.param("55P03", id="a lock that was not free in time"),
    ],
)
def test_a_commit_that_lost_against_another_transaction_can_be_made_again(scene: Scene, sqlstate: str) -> None:
    if scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time; a writer that waits too long is shown with the databases")
    turn = a_full_turn(scene)
    before = scene.everything()

    with refusing(scene.database, "lash_nodes", sqlstate), pytest.raises(StoreUnavailable) as refused:
        committing(scene, turn)

    assert refused.value.retryable
    assert scene.everything() == before
    assert committing(scene, turn).revision == 2
