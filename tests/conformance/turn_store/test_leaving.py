"""`TurnStore.give_up` and `request_cancel`: how a running turn is let go, and how it is asked to stop."""

from __future__ import annotations

import pytest

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.stores.protocols import NotOpened, OpenedTurn
from lash_tasks.stores.sql import tables
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene


@pytest.fixture
def turn(scene: Scene) -> OpenedTurn:
    scene.send()
    scene.beat(ALICE)
    return scene.open(ALICE)


@pytest.mark.parametrize("crashed", [False, True])
def test_a_turn_given_up_is_free_at_once(scene: Scene, turn: OpenedTurn, crashed: bool) -> None:
    assert scene.try_open(BOB) is NotOpened.HOLDER_LIVES

    assert scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=crashed)

    assert scene.open(BOB).resumed


def test_giving_up_does_not_raise_the_fence(scene: Scene, turn: OpenedTurn) -> None:
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)

    assert scene.fence() == turn.fence


@pytest.mark.parametrize("crashed", [False, True])
def test_a_turn_that_another_has_taken_is_not_given_up(scene: Scene, turn: OpenedTurn, crashed: bool) -> None:
    scene.clock.advance(60)
    scene.beat(BOB)
    scene.open(BOB)
    before = scene.everything()

    assert not scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=crashed)

    assert scene.everything() == before


def test_an_unknown_turn_is_not_given_up(scene: Scene, turn: OpenedTurn) -> None:
    assert not scene.store.give_up(SESSION, TurnId("queue:other"), turn.fence, crashed=False)
    assert not scene.store.give_up(SessionId("other"), turn.intent.turn_id, turn.fence, crashed=False)
    assert scene.try_open(BOB) is NotOpened.HOLDER_LIVES


def test_a_cancel_is_asked_once_and_keeps_its_first_reason(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.store.request_cancel(SESSION, turn.intent.turn_id, "first")
    assert scene.store.request_cancel(SESSION, turn.intent.turn_id, "second")

    assert scene.rows(tables.turn_cancels) == [
        {
            "session_id": SESSION,
            "turn_id": turn.intent.turn_id,
            "reason": "first",
            "requested_at_ms": scene.clock.now_ms(),
            "cause": "request",
        }
    ]


def test_a_cancel_needs_no_fence(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.store.request_cancel(SESSION, turn.intent.turn_id, "enough")

    assert scene.fence() == turn.fence
    assert scene.record(turn) == "recorded"


def test_a_turn_that_is_unknown_or_over_cannot_be_cancelled(scene: Scene, turn: OpenedTurn) -> None:
    assert not scene.store.request_cancel(SESSION, TurnId("queue:other"), "enough")
    scene.committed(turn)
    assert not scene.store.request_cancel(SESSION, turn.intent.turn_id, "enough")

    assert scene.count(tables.turn_cancels) == 0
