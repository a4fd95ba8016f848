"""`TurnStore.checkpoint`: input that joins a running turn, claimed and recorded in one go."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.journal import EffectState
from lash_tasks.domain.messages import TextPart
from lash_tasks.domain.queue import BatchState, decode_joined
from lash_tasks.stores.protocols import CheckpointRefused, CheckpointTaken, OpenedTurn
from lash_tasks.stores.sql.rows import INLINE_OUTCOME_BYTES
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene, journal_row


@pytest.fixture
def turn(scene: Scene) -> OpenedTurn:
    scene.send("opening")
    return scene.open(ALICE)


def test_waiting_early_input_joins_and_the_claim_is_recorded(scene: Scene, turn: OpenedTurn) -> None:
    first, second = scene.inject(text="order 13"), scene.inject(text="not 12")

    taken = scene.checkpoint(turn)

    assert isinstance(taken, CheckpointTaken)
    assert [(batch.id, batch.state, batch.turn_id) for batch in taken.batches] == [
        (first, BatchState.CLAIMED, turn.intent.turn_id),
        (second, BatchState.CLAIMED, turn.intent.turn_id),
    ]
    assert scene.batch(first) == scene.batch(second) == (BatchState.CLAIMED, turn.intent.turn_id)
    [effect] = scene.open(BOB).journal
    assert (effect.replay_key, effect.state, effect.fence) == ("checkpoint-1", EffectState.DONE, turn.fence)
    joined = decode_joined(effect.outcome or b"")
    assert [(item.batch_id, item.input and item.input.parts[0]) for item in joined] == [
        (first, TextPart("order 13")),
        (second, TextPart("not 12")),
    ]


def test_with_nothing_waiting_nothing_is_written(scene: Scene, turn: OpenedTurn) -> None:
    before = scene.everything()

    assert scene.checkpoint(turn) is CheckpointRefused.EMPTY

    assert scene.everything() == before


def test_a_checkpoint_that_is_recorded_is_not_taken_again(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()
    scene.checkpoint(turn)
    later = scene.inject()
    before = scene.everything()

    assert scene.checkpoint(turn) is CheckpointRefused.EXISTS

    assert scene.everything() == before
    assert scene.batch(later) == (BatchState.READY, None)
    assert isinstance(scene.checkpoint(turn, "checkpoint-2"), CheckpointTaken)


@pytest.mark.shows("L9")
def test_a_stale_checkpoint_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    waiting = scene.inject()
    scene.open(BOB)
    before = scene.everything()

    assert scene.checkpoint(turn) is CheckpointRefused.FENCED

    assert scene.everything() == before
    assert scene.batch(waiting) == (BatchState.READY, None)


def test_a_stale_checkpoint_is_fenced_before_it_is_anything_else(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()
    scene.checkpoint(turn)
    scene.open(BOB)

    assert scene.checkpoint(turn) is CheckpointRefused.FENCED
    assert scene.checkpoint(turn, "checkpoint-2") is CheckpointRefused.FENCED


def test_a_checkpoint_of_another_turn_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()

    assert scene.checkpoint(turn, turn_id=TurnId("queue:other")) is CheckpointRefused.FENCED
    assert scene.checkpoint(turn, session_id=SessionId("other")) is CheckpointRefused.FENCED


@pytest.mark.parametrize(
    ("waiting", "joins"),
    [
        pytest.param([{"exclusive": True}, {}], 1, id="an exclusive one joins alone"),
        pytest.param([{}, {"exclusive": True}], 1, id="an exclusive one ends the run"),
        pytest.param([{}, {"merge_key": "other"}], 1, id="another merge key ends the run"),
        pytest.param([{"merge_key": None}, {"merge_key": None}], 1, id="no merge key never merges"),
        pytest.param([{}, {"agent": "sales"}, {}], 1, id="another agent ends the run"),
        pytest.param([{}, {"context": "other"}, {}], 1, id="another context ends the run"),
        pytest.param([{}, {"early": False}, {}], 1, id="one that is not early ends the run"),
        pytest.param([{}, {}, {}], 3, id="one merge key joins together"),
        pytest.param([{"early": False}, {}], 0, id="a head that is not early hides what is behind it"),
        pytest.param([{"agent": "sales"}, {}], 0, id="a head of another agent hides what is behind it"),
        pytest.param([{"context": "other"}, {}], 0, id="a head of another context hides what is behind it"),
        pytest.param([{"available_at_ms": 2**53}, {}], 1, id="one that is not due is passed over"),
        pytest.param([{"available_at_ms": 2**53}], 0, id="one that is not due does not join"),
    ],
)
def test_the_oldest_input_decides_what_joins(
    scene: Scene, turn: OpenedTurn, waiting: list[dict[str, Any]], joins: int
) -> None:
    ids = [scene.inject(**given) for given in waiting]
    due = [batch_id for batch_id, given in zip(ids, waiting, strict=True) if "available_at_ms" not in given]

    answer = scene.checkpoint(turn)

    if joins:
        assert isinstance(answer, CheckpointTaken)
        assert [batch.id for batch in answer.batches] == due[:joins]
    else:
        assert answer is CheckpointRefused.EMPTY
    claimed = [batch_id for batch_id in ids if scene.batch(batch_id)[0] is BatchState.CLAIMED]
    assert claimed == due[:joins]


def test_no_more_join_than_the_limit_says(scene: Scene, turn: OpenedTurn) -> None:
    ids = [scene.inject() for _ in range(3)]

    first = scene.checkpoint(turn, "checkpoint-1", limit=2)
    second = scene.checkpoint(turn, "checkpoint-2", limit=2)

    assert isinstance(first, CheckpointTaken)
    assert isinstance(second, CheckpointTaken)
    assert [batch.id for batch in first.batches + second.batches] == ids


def test_input_of_another_session_does_not_join(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject(session_id=SessionId("customer-8"))

    assert scene.checkpoint(turn) is CheckpointRefused.EMPTY


def test_a_large_outcome_is_kept_whole(scene: Scene, turn: OpenedTurn) -> None:
    text = "x" * (INLINE_OUTCOME_BYTES + 1)
    scene.inject(text=text)
    scene.checkpoint(turn)

    [effect] = scene.open(BOB).journal

    [joined] = decode_joined(effect.outcome or b"")
    assert joined.input is not None
    assert joined.input.parts[0] == TextPart(text)


def test_what_joined_is_no_progress_lost(scene: Scene, turn: OpenedTurn) -> None:
    """A take-over replays the checkpoint from the journal and finds its input claimed."""
    joined = scene.inject()
    scene.checkpoint(turn)
    second = scene.open(BOB)

    assert second.attempt == 1
    assert scene.checkpoint(second) is CheckpointRefused.EXISTS
    assert scene.batch(joined) == (BatchState.CLAIMED, turn.intent.turn_id)
    committed = scene.committed(second, batch_ids=("opening", joined))
    assert not committed.more


def test_a_recorded_effect_is_not_overwritten_by_a_checkpoint(scene: Scene, turn: OpenedTurn) -> None:
    waiting = scene.inject()
    scene.store.record([journal_row(turn, "checkpoint-1", outcome=b"first")])

    assert scene.checkpoint(turn) is CheckpointRefused.EXISTS
    assert scene.batch(waiting) == (BatchState.READY, None)
    assert [effect.outcome for effect in scene.open(BOB).journal] == [b"first"]


def test_the_turn_stays_open_for_what_it_records_next(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject()
    scene.checkpoint(turn)

    assert scene.record(turn, "call-2") == "recorded"
    assert scene.open(BOB).intent.session_id == SESSION
