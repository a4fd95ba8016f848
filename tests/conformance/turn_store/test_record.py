"""`TurnStore.record`: the first record wins, a stale one is fenced, a bad one fails alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.domain.ids import ReplayKey, SessionId, blob_ref
from lash_tasks.domain.journal import EffectKind, EffectState, Envelope, RecordReply, RecordVerdict
from lash_tasks.stores.protocols import OpenedTurn
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.rows import INLINE_OUTCOME_BYTES
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene, begun, journal_row

RECORDED, EXISTS, FENCED, REFUSED, _ = RecordVerdict


@pytest.fixture
def turn(scene: Scene) -> OpenedTurn:
    scene.send()
    return scene.open(ALICE)


def reopened(scene: Scene) -> dict[str, tuple[EffectState, bytes | None]]:
    """The journal as the next worker reads it."""
    return {effect.replay_key: (effect.state, effect.outcome) for effect in scene.open(BOB).journal}


def test_a_recorded_effect_is_what_the_next_worker_reads(scene: Scene, turn: OpenedTurn) -> None:
    row = journal_row(turn, "call-1", ordinal=7, outcome=b"answer")

    assert scene.store.record([row]) == [RecordReply(RECORDED)]

    [effect] = scene.open(BOB).journal
    assert (effect.replay_key, effect.ordinal, effect.fence, effect.state) == (
        "call-1",
        7,
        turn.fence,
        EffectState.DONE,
    )
    assert (effect.envelope, effect.outcome) == (row.envelope, b"answer")


def test_no_rows_get_no_verdicts(scene: Scene) -> None:
    assert scene.store.record([]) == []


def test_the_first_record_wins(scene: Scene, turn: OpenedTurn) -> None:
    scene.record(turn, outcome=b"first")

    assert scene.record(turn, outcome=b"second") == EXISTS
    assert scene.record(turn, outcome=b"first") == EXISTS
    assert reopened(scene) == {"call-1": (EffectState.DONE, b"first")}


def test_begun_becomes_done_once(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.store.record([begun(turn)])[0].verdict == RECORDED
    assert scene.store.record([begun(turn)])[0].verdict == EXISTS
    assert scene.record(turn, outcome=b"charged") == RECORDED
    assert scene.record(turn, outcome=b"charged twice") == EXISTS
    assert scene.store.record([begun(turn)])[0].verdict == EXISTS
    assert reopened(scene) == {"call-1": (EffectState.DONE, b"charged")}


def test_begun_becomes_done_only_under_the_same_request(scene: Scene, turn: OpenedTurn) -> None:
    scene.store.record([begun(turn)])
    other = Envelope(EffectKind.TOOL_ATTEMPT, {"cents": 2}).to_bytes()

    assert scene.record(turn, envelope=other) == EXISTS
    assert reopened(scene) == {"call-1": (EffectState.BEGUN, None)}


def test_what_one_worker_began_the_next_may_finish(scene: Scene, turn: OpenedTurn) -> None:
    scene.store.record([begun(turn)])
    second = scene.open(BOB)

    assert scene.record(second, outcome=b"interrupted") == RECORDED

    [effect] = scene.open(ALICE).journal
    assert (effect.state, effect.fence, effect.outcome) == (EffectState.DONE, second.fence, b"interrupted")


def test_a_row_under_an_old_fence_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    scene.open(BOB)

    assert scene.record(turn) == FENCED
    assert scene.count(tables.effects) == 0


def test_a_row_under_a_fence_to_come_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.record(turn, fence=turn.fence + 1) == FENCED
    assert scene.count(tables.effects) == 0


def test_a_row_of_an_unknown_session_is_fenced(scene: Scene, turn: OpenedTurn) -> None:
    row = replace(journal_row(turn), session_id=SessionId("nobody"), fence=0)

    assert scene.store.record([row])[0].verdict == FENCED
    assert scene.count(tables.effects) == 0


def test_a_stale_done_does_not_finish_what_was_begun(scene: Scene, turn: OpenedTurn) -> None:
    scene.store.record([begun(turn)])
    scene.open(BOB)

    assert scene.record(turn) == FENCED
    assert reopened(scene) == {"call-1": (EffectState.BEGUN, None)}


def test_rows_of_many_turns_get_a_verdict_each_in_order(scene: Scene) -> None:
    turns = []
    for number in range(5):
        session_id = SessionId(f"session-{number}")
        scene.send(session_id=session_id)
        turns.append(scene.open(ALICE, session_id=session_id))
    scene.record(turns[1], "call-1")
    scene.open(BOB, session_id=turns[3].intent.session_id)
    scene.store.request_cancel(turns[2].intent.session_id, turns[2].intent.turn_id, "enough")
    scene.inject(session_id=turns[4].intent.session_id)

    rows = [journal_row(turn, key) for turn in reversed(turns) for key in ("call-1", "call-2")]
    replies = scene.store.record(rows)

    assert replies == [
        RecordReply(RECORDED, joinable=True),
        RecordReply(RECORDED, joinable=True),
        RecordReply(FENCED),
        RecordReply(FENCED),
        RecordReply(RECORDED, cancel=True),
        RecordReply(RECORDED, cancel=True),
        RecordReply(EXISTS),
        RecordReply(RECORDED),
        RecordReply(RECORDED),
        RecordReply(RECORDED),
    ]
    assert scene.count(tables.effects) == 8


def test_one_key_twice_in_one_call_is_taken_in_order(scene: Scene, turn: OpenedTurn) -> None:
    rows = [
        begun(turn),
        journal_row(turn, outcome=b"one"),
        journal_row(turn, outcome=b"two"),
        journal_row(turn, "other"),
    ]

    assert [reply.verdict for reply in scene.store.record(rows)] == [RECORDED, RECORDED, EXISTS, RECORDED]
    assert reopened(scene) == {"call-1": (EffectState.DONE, b"one"), "other": (EffectState.DONE, b"answer")}


def test_an_outcome_is_bytes_of_any_kind(scene: Scene, turn: OpenedTurn) -> None:
    outcomes = {"nul": b"a\x00b", "empty": b"", "binary": bytes(range(256)), "backslashes": rb"\x41\\000"}

    for key, outcome in outcomes.items():
        assert scene.record(turn, key, outcome=outcome) == RECORDED

    assert reopened(scene) == {key: (EffectState.DONE, outcome) for key, outcome in outcomes.items()}


def test_a_large_outcome_lies_in_a_blob_and_comes_back_whole(scene: Scene, turn: OpenedTurn) -> None:
    large = b"x" * (INLINE_OUTCOME_BYTES + 1)
    inline = b"y" * INLINE_OUTCOME_BYTES
    rows = [
        journal_row(turn, "large", outcome=large),
        journal_row(turn, "large again", outcome=large),
        journal_row(turn, "inline", outcome=inline),
    ]

    assert {reply.verdict for reply in scene.store.record(rows)} == {RECORDED}

    [blob] = scene.rows(tables.blobs)
    assert (blob["ref"], blob["content"]) == (blob_ref(large), large)
    stored = {row["replay_key"]: (row["outcome"], row["outcome_ref"]) for row in scene.rows(tables.effects)}
    assert stored == {
        "large": (None, blob_ref(large)),
        "large again": (None, blob_ref(large)),
        "inline": (inline, None),
    }
    assert reopened(scene) == {
        "large": (EffectState.DONE, large),
        "large again": (EffectState.DONE, large),
        "inline": (EffectState.DONE, inline),
    }


def test_a_begun_effect_may_end_in_a_large_outcome(scene: Scene, turn: OpenedTurn) -> None:
    large = b"x" * (INLINE_OUTCOME_BYTES + 1)
    scene.store.record([begun(turn)])

    assert scene.record(turn, outcome=large) == RECORDED
    assert reopened(scene) == {"call-1": (EffectState.DONE, large)}


def test_a_large_outcome_that_is_not_recorded_leaves_no_blob(scene: Scene, turn: OpenedTurn) -> None:
    scene.record(turn, "taken")
    large = b"x" * (INLINE_OUTCOME_BYTES + 1)

    assert scene.record(turn, "taken", outcome=large) == EXISTS
    assert scene.record(turn, "stale", outcome=large, fence=turn.fence - 1) == FENCED
    assert scene.count(tables.blobs) == 0


@pytest.mark.parametrize("position", [0, 3, 6])
@pytest.mark.parametrize("poison", ["no utf-8", "a number out of range", "nothing where something must be"])
def test_a_bad_row_fails_alone(scene: Scene, turn: OpenedTurn, poison: str, position: int) -> None:
    rows = [journal_row(turn, f"call-{number}") for number in range(7)]
    match poison:
        case "no utf-8":
            rows[position] = replace(rows[position], replay_key=ReplayKey("call-\udcff"))
        case "a number out of range":
            rows[position] = replace(rows[position], ordinal=2**70)
        case _:
            rows[position] = replace(rows[position], envelope=None)  # type: ignore[arg-type]  # what must not be

    verdicts = [reply.verdict for reply in scene.store.record(rows)]

    assert verdicts == [REFUSED if number == position else RECORDED for number in range(7)]
    assert len(reopened(scene)) == 6


def test_a_value_that_only_postgres_refuses_fails_alone_there(scene: Scene, turn: OpenedTurn) -> None:
    rows = [journal_row(turn, "call-1"), journal_row(turn, "call-\x00"), journal_row(turn, "k" * 5000)]
    rows.append(journal_row(turn, "call-2"))

    verdicts = [reply.verdict for reply in scene.store.record(rows)]

    bad = REFUSED if scene.database.dialect == "postgresql" else RECORDED
    assert verdicts[0] == verdicts[3] == RECORDED
    assert verdicts[1] == bad
    assert "call-2" in reopened(scene)


def test_a_waiting_cancel_is_told(scene: Scene, turn: OpenedTurn) -> None:
    assert scene.store.record([journal_row(turn, "before")]) == [RecordReply(RECORDED, cancel=False)]
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "enough")
    assert scene.store.record([journal_row(turn, "after")]) == [RecordReply(RECORDED, cancel=True)]


def test_early_input_that_waits_is_told_once_it_is_due(scene: Scene, turn: OpenedTurn) -> None:
    scene.inject(available_at_ms=scene.clock.now_ms() + 1000)
    assert not scene.store.record([journal_row(turn, "before")])[0].joinable

    scene.clock.advance(1)
    assert scene.store.record([journal_row(turn, "after")])[0].joinable


def test_early_input_behind_other_input_is_not_told(scene: Scene, turn: OpenedTurn) -> None:
    scene.send()
    scene.inject()
    assert not scene.store.record([journal_row(turn)])[0].joinable


def test_a_turn_that_was_given_up_may_still_record_until_another_takes_it(scene: Scene, turn: OpenedTurn) -> None:
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)

    assert scene.record(turn, "finished late") == RECORDED
    scene.open(BOB)
    assert scene.record(turn, "finished later") == FENCED
