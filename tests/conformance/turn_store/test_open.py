"""`TurnStore.open`: what it claims, what it resumes, and when it leaves everything as it is."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from lash_tasks.domain.ids import BatchId, SessionId, queue_turn_id
from lash_tasks.domain.journal import EffectState
from lash_tasks.domain.queue import MAX_BATCHES_PER_CLAIM, BatchState, decode_joined
from lash_tasks.domain.turns import TurnIntent
from lash_tasks.stores.protocols import CheckpointTaken, NotOpened
from lash_tasks.stores.sql import tables
from tests.conformance.arrange import ALICE, BOB, SESSION, SUPPORT, WORKER_TTL_MS, Scene, begun, node


def test_a_first_input_opens_a_turn_that_is_pinned_to_it(scene: Scene) -> None:
    batch_id = scene.send(text="where is order 12?")

    turn = scene.open(ALICE)

    assert turn.intent == TurnIntent(
        session_id=SESSION,
        turn_id=queue_turn_id([batch_id]),
        turn_index=1,
        base_revision=0,
        batch_ids=(batch_id,),
        agent="support",
        agent_ref="ref-1",
        machine_version=3,
        admitted_at_ms=scene.clock.now_ms(),
    )
    assert (turn.resumed, turn.fence, turn.attempt, turn.cancel, turn.joinable) == (False, 1, 1, False, False)
    assert (turn.journal, turn.history) == ((), ())
    [batch] = turn.batches
    assert (batch.id, batch.state, batch.turn_id) == (batch_id, BatchState.CLAIMED, turn.intent.turn_id)
    assert b"where is order 12?" in batch.payload
    assert (batch.early, batch.exclusive) == (False, True)
    assert scene.batch(batch_id) == (BatchState.CLAIMED, turn.intent.turn_id)


def test_the_session_comes_to_be_with_its_first_turn(scene: Scene) -> None:
    scene.send()
    assert scene.count(tables.sessions) == 0

    scene.open()

    [session] = scene.rows(tables.sessions)
    assert (session["id"], session["head_revision"], session["turn_index"]) == (SESSION, 0, 0)
    assert session["created_at_ms"] == scene.clock.now_ms()


def test_with_nothing_to_do_nothing_is_written(scene: Scene) -> None:
    before = scene.everything()

    assert scene.try_open() is NotOpened.NOTHING

    assert scene.everything() == before


def test_after_a_commit_there_is_nothing_to_do_and_the_fence_stays(scene: Scene) -> None:
    scene.send()
    scene.committed(scene.open())
    before = scene.everything()

    assert scene.try_open() is NotOpened.NOTHING

    assert scene.everything() == before


@pytest.mark.shows("T1")
def test_a_later_turn_builds_on_the_one_before(scene: Scene) -> None:
    scene.send("first")
    scene.send("second")
    scene.committed(scene.open(), nodes=(node(1), node(2, parent=1)))

    turn = scene.open()

    assert turn.intent.batch_ids == ("second",)
    assert (turn.intent.turn_index, turn.intent.base_revision) == (2, 1)
    assert [(stored.revision, stored.ordinal, stored.node) for stored in turn.history] == [
        (1, 0, node(1)),
        (1, 1, node(2, parent=1)),
    ]


def test_history_that_the_caller_knows_is_not_read(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.send()
        scene.committed(scene.open(), nodes=(node(number),), stamp=f"stamp-{number}")
    scene.send()

    turn = scene.open(known_revision=2)

    assert [stored.node for stored in turn.history] == [node(3)]


# ---------------------------------------------------------------- resuming


@pytest.mark.shows("L5")
def test_a_turn_of_a_live_worker_is_left_alone(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)
    scene.beat(ALICE, ago_ms=WORKER_TTL_MS - 1)
    before = scene.everything()

    assert scene.try_open(BOB) is NotOpened.HOLDER_LIVES

    assert scene.everything() == before


@pytest.mark.shows("L3", "L5")
@pytest.mark.parametrize("seen_ago_ms", [WORKER_TTL_MS, 10 * WORKER_TTL_MS, None])
def test_a_turn_of_a_dead_worker_is_taken_over(scene: Scene, seen_ago_ms: int | None) -> None:
    scene.send()
    first = scene.open(ALICE)
    if seen_ago_ms is not None:
        scene.beat(ALICE, ago_ms=seen_ago_ms)

    second = scene.open(BOB)

    assert second.intent == first.intent
    assert second.batches == first.batches
    assert second.resumed
    assert second.fence == first.fence + 1 == scene.fence()


def test_take_overs_without_progress_are_counted(scene: Scene) -> None:
    scene.send()
    assert [scene.open(worker).attempt for worker in (ALICE, BOB, ALICE, BOB)] == [1, 2, 3, 4]


def test_a_take_over_after_progress_counts_from_one_again(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)
    second = scene.open(BOB)
    assert second.attempt == 2
    scene.record(second)

    assert scene.open(ALICE).attempt == 1
    assert scene.open(BOB).attempt == 2, "the same effect is no progress a second time"


def test_an_effect_that_only_began_is_no_progress(scene: Scene) -> None:
    scene.send()
    first = scene.open(ALICE)
    scene.store.record([begun(first)])

    assert scene.open(BOB).attempt == 2


def test_a_turn_given_up_on_purpose_is_resumed_uncounted(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    scene.open(ALICE)
    turn = scene.open(ALICE)
    assert scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)

    resumed = scene.open(BOB)

    assert (resumed.resumed, resumed.attempt, resumed.fence) == (True, 1, turn.fence + 1)


def test_a_giving_up_keeps_the_attempts_counted_so_far(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)
    second = scene.open(BOB)
    scene.store.give_up(SESSION, second.intent.turn_id, second.fence, crashed=False)

    assert scene.open(ALICE).attempt == 2


def test_a_crash_is_counted_like_a_death(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    turn = scene.open(ALICE)
    assert scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)

    assert scene.open(ALICE).attempt == 2, "also for the worker that crashed"


def test_a_crash_after_progress_counts_from_one_again(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)
    turn = scene.open(BOB)
    scene.record(turn)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)

    assert scene.open(ALICE).attempt == 1


def test_a_worker_may_resume_what_it_holds_itself(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    first = scene.open(ALICE)

    again = scene.open(ALICE)

    assert (again.resumed, again.attempt, again.fence) == (True, 1, first.fence + 1)


def test_a_resumed_turn_brings_its_journal_in_order(scene: Scene) -> None:
    scene.send()
    turn = scene.open(ALICE)
    scene.record(turn, "second", ordinal=2, outcome=b"two")
    scene.record(turn, "first", ordinal=1, outcome=b"one")
    scene.store.record([begun(turn, "third", ordinal=3)])

    journal = scene.open(BOB).journal

    assert [(effect.replay_key, effect.ordinal, effect.state, effect.outcome) for effect in journal] == [
        ("first", 1, EffectState.DONE, b"one"),
        ("second", 2, EffectState.DONE, b"two"),
        ("third", 3, EffectState.BEGUN, None),
    ]
    assert {effect.fence for effect in journal} == {turn.fence}


def test_a_resumed_turn_brings_the_inputs_of_its_intent_and_not_those_that_joined(scene: Scene) -> None:
    opening = scene.send()
    turn = scene.open(ALICE)
    joined = scene.inject()
    assert isinstance(scene.checkpoint(turn), CheckpointTaken)

    resumed = scene.open(BOB)

    assert [batch.id for batch in resumed.batches] == [opening]
    [effect] = resumed.journal
    assert [item.batch_id for item in decode_joined(effect.outcome or b"")] == [joined]


def test_a_turn_stays_pinned_to_the_agent_it_began_with(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)

    resumed = scene.open(BOB, agents={"support": "ref-2"}, refs=["ref-1"])

    assert resumed.intent.agent_ref == "ref-1"


def test_an_unfinished_turn_comes_before_waiting_input(scene: Scene) -> None:
    first = scene.send()
    scene.open(ALICE)
    scene.send()

    assert scene.open(BOB).intent.batch_ids == (first,)


# ---------------------------------------------------------------- held


def test_input_for_an_unknown_agent_is_held(scene: Scene) -> None:
    scene.send(agent="sales")
    before = scene.everything()

    assert scene.try_open(agents=SUPPORT) is NotOpened.HELD

    assert scene.everything() == before


def test_input_behind_that_of_an_unknown_agent_waits(scene: Scene) -> None:
    scene.send(agent="sales")
    known = scene.send(agent="support")

    assert scene.try_open(agents=SUPPORT) is NotOpened.HELD
    assert scene.batch(known) == (BatchState.READY, None)


def test_a_turn_of_an_unknown_agent_is_held(scene: Scene) -> None:
    scene.send(agent="sales")
    scene.open(ALICE, agents={"sales": "ref-9"})
    before = scene.everything()

    assert scene.try_open(BOB, agents=SUPPORT) is NotOpened.HELD

    assert scene.everything() == before


@pytest.mark.parametrize("changed", [{"agents": {"support": "ref-2"}}, {"machine_version": 4}])
def test_a_turn_that_was_begun_with_other_code_is_held(scene: Scene, changed: dict[str, Any]) -> None:
    scene.send()
    scene.open(ALICE)
    before = scene.everything()

    assert scene.try_open(BOB, **changed) is NotOpened.HELD

    assert scene.everything() == before
    assert scene.open(BOB).attempt == 2, "to be held is no attempt"


def test_a_turn_that_is_to_be_cancelled_needs_no_code(scene: Scene) -> None:
    scene.send()
    turn = scene.open(ALICE)
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "its code is gone")

    assert scene.open(BOB, agents={}, machine_version=4).cancel


def test_new_input_is_taken_with_the_version_of_whoever_takes_it(scene: Scene) -> None:
    scene.send()
    scene.committed(scene.open(ALICE))
    scene.send()

    assert scene.open(BOB, agents={"support": "ref-2"}, machine_version=4).intent.agent_ref == "ref-2"


def test_a_worker_without_agents_holds_everything(scene: Scene) -> None:
    scene.send()

    assert scene.try_open(agents={}) is NotOpened.HELD


def test_each_agent_gets_its_own_snapshot(scene: Scene) -> None:
    scene.send(agent="sales")

    turn = scene.open(agents={"support": "ref-1", "sales": "ref-9"})

    assert (turn.intent.agent, turn.intent.agent_ref) == ("sales", "ref-9")


# ---------------------------------------------------------------- which inputs, and which together

_MERGES: dict[str, Any] = {"exclusive": False, "merge_key": "g"}


@pytest.mark.parametrize(
    ("inputs", "taken"),
    [
        pytest.param([{}, {}], 1, id="exclusive ones run alone"),
        pytest.param([_MERGES, _MERGES, _MERGES], 3, id="one merge key runs together"),
        pytest.param([_MERGES, _MERGES | {"merge_key": "h"}, _MERGES], 1, id="another merge key ends the run"),
        pytest.param([_MERGES, _MERGES | {"exclusive": True}, _MERGES], 1, id="an exclusive one ends the run"),
        pytest.param([_MERGES | {"exclusive": True}, _MERGES], 1, id="an exclusive head is alone"),
        pytest.param([_MERGES, _MERGES | {"agent": "sales"}, _MERGES], 1, id="another agent ends the run"),
        pytest.param([_MERGES, _MERGES | {"context": "other"}, _MERGES], 1, id="another context ends the run"),
        pytest.param([_MERGES, _MERGES | {"early": True}, _MERGES], 1, id="another delivery ends the run"),
        pytest.param([_MERGES, _MERGES, {}, _MERGES], 2, id="a run is not taken up again"),
        pytest.param([{"exclusive": False}, {"exclusive": False}], 1, id="no merge key never merges"),
        pytest.param([_MERGES, {"exclusive": False}], 1, id="no merge key joins none"),
        pytest.param([{"exclusive": False}, _MERGES], 1, id="none joins no merge key"),
    ],
)
def test_the_oldest_input_decides_what_runs_with_it(scene: Scene, inputs: list[dict[str, Any]], taken: int) -> None:
    ids = [scene.send(**given) for given in inputs]

    turn = scene.open(agents={"support": "ref-1", "sales": "ref-2"})

    assert list(turn.intent.batch_ids) == ids[:taken]
    assert [batch.id for batch in turn.batches] == ids[:taken]
    assert turn.intent.turn_id == queue_turn_id(ids[:taken])
    assert [scene.batch(batch_id)[0] for batch_id in ids[taken:]] == [BatchState.READY] * (len(ids) - taken)


def test_the_order_is_that_of_acceptance_and_not_of_ids(scene: Scene) -> None:
    ids = [scene.send(batch_id, **_MERGES) for batch_id in ("z", "ä", "a", "B")]

    turn = scene.open()

    assert list(turn.intent.batch_ids) == [batch.id for batch in turn.batches] == ids
    assert turn.intent.turn_id == queue_turn_id([BatchId(batch_id) for batch_id in ("z", "ä", "a", "B")])


def test_a_run_has_an_end(scene: Scene) -> None:
    ids = [scene.send(**_MERGES) for _ in range(MAX_BATCHES_PER_CLAIM + 2)]

    assert list(scene.open().intent.batch_ids) == ids[:MAX_BATCHES_PER_CLAIM]


def test_input_that_is_not_due_is_passed_over(scene: Scene) -> None:
    late = scene.send(available_at_ms=scene.clock.now_ms() + 1000)
    now = scene.send()

    turn = scene.open()
    assert turn.intent.batch_ids == (now,)
    scene.committed(turn)
    assert scene.try_open() is NotOpened.NOTHING

    scene.clock.advance(1)
    assert scene.open().intent.batch_ids == (late,)


def test_input_that_is_not_due_does_not_end_a_run(scene: Scene) -> None:
    first = scene.send(**_MERGES)
    scene.send(available_at_ms=scene.clock.now_ms() + 1000)
    second = scene.send(**_MERGES)

    assert scene.open().intent.batch_ids == (first, second)


def test_input_of_another_session_is_not_touched(scene: Scene) -> None:
    other = SessionId("customer-8")
    theirs = scene.send(session_id=other, **_MERGES)
    ours = scene.send(**_MERGES)

    assert scene.open().intent.batch_ids == (ours,)

    assert scene.batch(theirs) == (BatchState.READY, None)
    assert scene.fence(other) == 0


def test_input_of_a_deleted_session_is_never_opened(scene: Scene) -> None:
    scene.send()
    scene.bury()
    before = scene.everything()

    assert scene.try_open() is NotOpened.NOTHING

    assert scene.everything() == before


# ---------------------------------------------------------------- flags


def test_a_cancel_is_seen_at_the_next_opening(scene: Scene) -> None:
    scene.send()
    turn = scene.open(ALICE)
    assert scene.store.request_cancel(SESSION, turn.intent.turn_id, "not needed")

    assert scene.open(BOB).cancel


@pytest.mark.parametrize(
    ("waiting", "joinable"),
    [
        pytest.param([{"early": True}], True, id="an early input"),
        pytest.param([{"early": True, "agent": "sales"}], False, id="of another agent"),
        pytest.param([{"early": True, "context": "other"}], False, id="of another context"),
        pytest.param([{}], False, id="one that is not early"),
        pytest.param([{}, {"early": True}], False, id="behind one that is not early"),
        pytest.param([{"early": True}, {}], True, id="before one that is not early"),
    ],
)
def test_input_that_may_join_is_announced(scene: Scene, waiting: list[dict[str, Any]], joinable: bool) -> None:
    scene.send()
    scene.open(ALICE)
    for given in waiting:
        scene.send(**given)

    assert scene.open(BOB).joinable is joinable


def test_what_the_opening_claims_is_not_announced_as_joinable(scene: Scene) -> None:
    scene.send(early=True)

    assert not scene.open().joinable


def test_input_that_is_left_behind_a_fresh_claim_is_announced(scene: Scene) -> None:
    scene.send(early=True)
    scene.send(early=True)

    assert scene.open().joinable


def test_early_input_that_is_not_due_is_not_announced(scene: Scene) -> None:
    scene.send()
    scene.send(early=True, available_at_ms=scene.clock.now_ms() + 1)

    assert not scene.open().joinable


def test_a_stored_session_with_the_same_name_as_a_turn_scope_is_kept_apart(scene: Scene) -> None:
    """A session id may hold a slash: its journal must not run into that of another session's turn."""
    scene.send("b1")
    first = scene.open(ALICE)
    scene.record(first, "call-1")
    odd = SessionId(f"{SESSION}/{first.intent.turn_id}")
    scene.send("b2", session_id=odd)

    assert scene.open(ALICE, session_id=odd).journal == ()


def test_every_session_has_its_own_fence(scene: Scene) -> None:
    other = SessionId("customer-8")
    scene.send()
    scene.send(session_id=other)
    for worker in (ALICE, BOB, ALICE):
        scene.open(worker)

    assert scene.open(session_id=other).fence == 1
    assert scene.fence() == 3


def test_a_fence_that_stands_is_never_begun_anew(scene: Scene) -> None:
    with scene.database.transaction() as connection:
        connection.execute(insert(tables.fences).values(scope=f"session:{SESSION}", fence=41))
    scene.send()

    assert scene.open().fence == 42
