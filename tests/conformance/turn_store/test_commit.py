"""`TurnStore.commit`: a turn lands whole or not at all, and once."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks.domain.ids import ReplayKey, SessionId, TurnId
from lash_tasks.domain.journal import RecordVerdict
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.usage import TokenUsage, UsageEntry
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointTaken,
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.rows import stored_node
from tests.conformance.arrange import ALICE, BOB, NO_CONTEXT, SESSION, Scene, node

USAGE = UsageEntry(ReplayKey("call-1"), "turn", "scripted:echo", TokenUsage(10, 5, 4, 3))


@pytest.fixture
def turn(scene: Scene) -> OpenedTurn:
    scene.send("opening")
    return scene.open(ALICE)


@pytest.mark.shows("T19")
def test_a_commit_leaves_everything_that_the_turn_brought(scene: Scene, turn: OpenedTurn) -> None:
    joined = scene.inject("joined")
    scene.checkpoint(turn)
    scene.clock.advance(5)

    committed = scene.commit(
        turn,
        batch_ids=("opening", joined),
        nodes=(node(1), node(2, "nul \x00", parent=1)),
        usage=(USAGE,),
        stamp="stamp-7",
        outcome="finished",
        result=b"re\x00sult",
    )

    now_ms = scene.clock.now_ms()
    assert committed == Committed(revision=1, committed_at_ms=now_ms, more=False)
    [session] = scene.rows(tables.sessions)
    assert (session["head_revision"], session["turn_index"]) == (1, 1)
    stored = sorted((stored_node(row) for row in scene.rows(tables.nodes)), key=lambda stored: stored.ordinal)
    assert [(each.revision, each.ordinal, each.node) for each in stored] == [
        (1, 0, node(1)),
        (1, 1, node(2, "nul \x00", parent=1)),
    ]
    assert scene.rows(tables.usage) == [
        {
            "session_id": SESSION,
            "effect_key": "call-1",
            "source": "turn",
            "model": "scripted:echo",
            "input_tokens": 10,
            "output_tokens": 5,
            "cached_input_tokens": 4,
            "reasoning_tokens": 3,
            "counted_at_ms": now_ms,
        }
    ]
    [row] = scene.rows(tables.turns)
    assert (row["status"], row["holder"], row["committed_at_ms"]) == ("committed", None, now_ms)
    assert (row["stamp"], row["outcome"], row["result"]) == ("stamp-7", "finished", b"re\x00sult")
    for batch_id in ("opening", joined):
        assert scene.batch(batch_id) == (BatchState.CONSUMED, turn.intent.turn_id)
    assert {row["ended_at_ms"] for row in scene.rows(tables.batches)} == {now_ms}
    assert scene.count(tables.dead_letters) == 0


def test_a_turn_without_messages_or_usage_lands_too(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.committed(turn, nodes=(), usage=()).revision == 1
    assert scene.count(tables.nodes) == scene.count(tables.usage) == 0


def test_further_ready_input_is_told(scene: Scene, turn: OpenedTurn) -> None:
    scene.send(session_id=SessionId("customer-8"))
    scene.send(available_at_ms=scene.clock.now_ms() + 1000)
    assert not scene.committed(turn).more

    scene.clock.advance(1)
    scene.send()
    assert scene.committed(scene.open(), stamp="stamp-2").more


@pytest.mark.shows("T1")
def test_revisions_and_turn_indexes_rise_by_one(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.send()
        turn = scene.open()
        assert turn.intent.turn_index == number
        assert scene.committed(turn, stamp=f"stamp-{number}", nodes=(node(number),)).revision == number


@pytest.mark.shows("T5")
def test_a_repeated_commit_changes_nothing_and_says_so(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn, nodes=(node(1),))
    before = scene.everything()

    assert scene.commit(turn, nodes=(node(1),)) is CommitRefused.ALREADY

    assert scene.everything() == before


def test_a_repeated_commit_is_known_also_after_later_turns(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn)
    scene.send()
    scene.open()

    assert scene.commit(turn) is CommitRefused.ALREADY


@pytest.mark.shows("T6")
def test_other_content_for_a_committed_turn_is_told_apart_and_changes_nothing(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn, nodes=(node(1),), stamp="stamp-1")
    before = scene.everything()

    assert scene.commit(turn, nodes=(node(2),), stamp="stamp-2") is CommitRefused.TURN_CONFLICT

    assert scene.everything() == before


@pytest.mark.shows("T6", "L7")
@pytest.mark.parametrize("known", [True, False])
def test_a_turn_cannot_be_committed_to_another_session(scene: Scene, turn: OpenedTurn, known: bool) -> None:
    other = SessionId("customer-8")
    if known:
        scene.send(session_id=other)
        assert scene.open(BOB, session_id=other).fence == turn.fence
    before = scene.everything()

    answer = scene.commit(turn, session_id=other, nodes=(node(1),))

    assert answer is (CommitRefused.CLAIM_EXPIRED if known else CommitRefused.FENCED)
    assert scene.everything() == before


@pytest.mark.shows("L7")
@pytest.mark.parametrize("off", [-1, 1])
def test_a_commit_needs_the_very_fence_of_its_opening(scene: Scene, turn: OpenedTurn, off: int) -> None:
    before = scene.everything()

    assert scene.commit(turn, fence=turn.fence + off, nodes=(node(1),)) is CommitRefused.FENCED

    assert scene.everything() == before


@pytest.mark.shows("L7")
def test_a_fence_that_was_let_go_with_its_commit_commits_nothing_more(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn)
    scene.send("second")
    second = scene.open(BOB)
    before = scene.everything()

    late = scene.commit(second, fence=turn.fence, nodes=(node(2),), stamp="stamp-2")

    assert late is CommitRefused.FENCED
    assert scene.everything() == before


@pytest.mark.shows("L8", "T15")
def test_with_the_commit_another_worker_may_open_though_the_first_one_lives(scene: Scene, turn: OpenedTurn) -> None:
    scene.send("second")
    scene.beat(ALICE)
    assert scene.try_open(BOB) is NotOpened.HOLDER_LIVES

    scene.committed(turn)

    assert scene.open(BOB).intent.batch_ids == ("second",)


@pytest.mark.shows("T3")
def test_a_commit_as_the_first_where_a_head_exists_writes_nothing(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn, nodes=(node(1),))
    scene.send("second")
    second = scene.open()
    before = scene.everything()

    assert scene.commit(second, base_revision=0, turn_index=1, nodes=(node(2),)) is CommitRefused.HEAD_CONFLICT

    assert scene.everything() == before


def test_a_stale_commit_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    scene.open(BOB)
    before = scene.everything()

    assert scene.commit(turn, nodes=(node(1),)) is CommitRefused.FENCED

    assert scene.everything() == before


def test_a_commit_of_an_unknown_turn_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.commit(turn, session_id=SessionId("nobody")) is CommitRefused.FENCED


def test_a_committed_turn_refuses_everything(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn)
    waiting = scene.inject()
    before = scene.everything()

    assert scene.record(turn) is RecordVerdict.FENCED
    assert scene.checkpoint(turn) is CheckpointRefused.FENCED
    assert scene.commit(turn) is CommitRefused.ALREADY
    assert not scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)
    assert not scene.store.request_cancel(SESSION, turn.intent.turn_id, "late")

    assert scene.everything() == before
    assert scene.batch(waiting) == (BatchState.READY, None)


# ---------------------------------------------------------------- conflicts


@pytest.mark.shows("T2", "T8")
@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        pytest.param({"base_revision": 1}, CommitRefused.HEAD_CONFLICT, id="another head"),
        pytest.param({"batch_ids": ()}, CommitRefused.CLAIM_EXPIRED, id="a claimed input is left out"),
        pytest.param(
            {"batch_ids": ("opening", "waiting")}, CommitRefused.CLAIM_EXPIRED, id="an input that nobody claimed"
        ),
        pytest.param({"batch_ids": ("waiting",)}, CommitRefused.CLAIM_EXPIRED, id="another input"),
        pytest.param({"turn_id": TurnId("queue:other")}, CommitRefused.CLAIM_EXPIRED, id="another turn"),
    ],
)
def test_a_commit_that_does_not_fit_writes_nothing(
    scene: Scene, turn: OpenedTurn, changed: dict[str, Any], refused: CommitRefused
) -> None:
    scene.send("waiting")
    before = scene.everything()

    assert scene.commit(turn, nodes=(node(1),), usage=(USAGE,), **changed) is refused
    assert refused.unfit

    assert scene.everything() == before
    assert isinstance(scene.commit(turn), Committed)


def test_input_that_joined_must_be_among_the_batches(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()
    assert isinstance(scene.checkpoint(turn), CheckpointTaken)

    assert scene.commit(turn) is CommitRefused.CLAIM_EXPIRED


def test_the_order_of_the_batches_does_not_matter(scene: Scene, turn: OpenedTurn) -> None:
    joined = scene.inject()
    scene.checkpoint(turn)

    assert isinstance(scene.commit(turn, batch_ids=(joined, "opening")), Committed)


# ---------------------------------------------------------------- what may still join


def test_input_that_may_join_holds_a_commit_back_until_it_has(scene: Scene, turn: OpenedTurn) -> None:
    joined = scene.inject()
    before = scene.everything()
    assert scene.commit(turn, refuse_if_joinable=True) is CommitRefused.JOINABLE
    assert scene.everything() == before

    assert isinstance(scene.checkpoint(turn), CheckpointTaken)
    assert isinstance(scene.commit(turn, refuse_if_joinable=True, batch_ids=("opening", joined)), Committed)


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param([{"early": False}, {}], id="behind one that is not early"),
        pytest.param([{"agent": "sales"}], id="of another agent"),
        pytest.param([{"context": "other"}], id="of another context"),
        pytest.param([{"available_at_ms": 2**53}], id="not due"),
        pytest.param([{"session_id": SessionId("customer-8")}], id="of another session"),
    ],
)
def test_input_that_cannot_join_holds_nothing_back(
    scene: Scene, turn: OpenedTurn, waiting: list[dict[str, Any]]
) -> None:
    for given in waiting:
        scene.inject(**given)

    assert scene.checkpoint(turn) is CheckpointRefused.EMPTY, "commit and checkpoint must agree, or a turn never ends"
    assert isinstance(scene.commit(turn, refuse_if_joinable=True), Committed)


def test_a_commit_that_does_not_ask_is_not_held_back(scene: Scene, turn: OpenedTurn) -> None:
    waiting = scene.inject()

    assert scene.committed(turn, refuse_if_joinable=False).more
    assert scene.batch(waiting) == (BatchState.READY, None)
    assert scene.open().intent.batch_ids == (waiting,)


def test_a_stale_commit_is_fenced_also_when_something_may_join(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()
    scene.open(BOB)

    assert scene.commit(turn, refuse_if_joinable=True) is CommitRefused.FENCED


def test_the_context_of_the_turn_decides_what_may_join(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()

    answer = scene.commit(turn, refuse_if_joinable=True, context_digest="another")

    assert NO_CONTEXT != "another"
    assert isinstance(answer, Committed)


# ---------------------------------------------------------------- dead letters, usage


def test_a_dead_turn_buries_its_inputs_with_the_reason(scene: Scene, turn: OpenedTurn) -> None:
    joined = scene.inject()
    scene.checkpoint(turn)

    committed = scene.committed(
        turn, batch_ids=("opening", joined), dead_reason="attempts_exhausted", outcome="runtime_error", nodes=(node(1),)
    )

    assert committed.revision == 1
    assert scene.batch("opening") == scene.batch(joined) == (BatchState.DEAD, turn.intent.turn_id)
    letters = sorted(scene.rows(tables.dead_letters), key=lambda row: str(row["batch_id"]))
    assert letters == [
        {
            "batch_id": batch_id,
            "session_id": SESSION,
            "turn_id": turn.intent.turn_id,
            "reason": "attempts_exhausted",
            "died_at_ms": scene.clock.now_ms(),
        }
        for batch_id in sorted(("opening", joined))
    ]
    assert scene.try_open() is NotOpened.NOTHING


def test_usage_is_counted_once_for_each_effect(scene: Scene, turn: OpenedTurn) -> None:
    scene.committed(turn, usage=(USAGE,))
    scene.send()
    again = UsageEntry(USAGE.effect_key, "turn", "scripted:echo", TokenUsage(99, 99))
    new = UsageEntry(ReplayKey("call-2"), "turn", "scripted:echo", TokenUsage(1, 2))

    scene.committed(scene.open(), usage=(again, new), stamp="stamp-2")

    counted = {row["effect_key"]: row["input_tokens"] for row in scene.rows(tables.usage)}
    assert counted == {"call-1": 10, "call-2": 1}


def test_a_commit_answers_the_cancel_that_waited(scene: Scene, turn: OpenedTurn) -> None:
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "enough")

    scene.committed(turn, outcome="cancelled")

    assert scene.count(tables.turn_cancels) == 0
