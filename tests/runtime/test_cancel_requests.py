"""Requests to cancel an input or a turn, and to send a dead letter again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lash_tasks.domain.queue import CancelVerdict
from lash_tasks.errors import (
    InvalidInput,
    NotFound,
)
from lash_tasks.runtime.ingress import CancelRequest
from tests.scene import SESSION, Scene


def test_an_input_is_cancelled_by_id_or_by_key_as_long_as_no_turn_has_it(scene: Scene) -> None:
    by_id, by_key = scene.send(), scene.send(idempotency_key="msg-1")
    for named in ({"input_id": by_id}, {"idempotency_key": "msg-1"}, {"idempotency_key": "msg-1"}):
        answer = scene.ingress.cancel(CancelRequest.parse({"session_id": SESSION, **named}))
        assert answer.input_id == (by_id if "input_id" in named else by_key)
    assert answer.verdict is CancelVerdict.ENDED
    assert scene.queue.waiting() == []


def test_a_cancel_that_comes_too_late_names_the_turn(scene: Scene) -> None:
    input_id = scene.send()
    request = CancelRequest.parse({"session_id": SESSION, "input_id": input_id})
    opened = scene.open()
    taken = scene.ingress.cancel(request)
    scene.commit(opened)
    ended = scene.ingress.cancel(request)
    turn_id = opened.intent.turn_id
    assert json.loads(json.dumps(taken.as_json())) == {
        "session_id": SESSION,
        "verdict": "taken",
        "input_id": input_id,
        "turn_id": turn_id,
    }
    assert (ended.verdict, ended.turn_id) == (CancelVerdict.ENDED, turn_id)


def test_a_running_turn_is_asked_to_stop_and_one_that_is_over_is_not(scene: Scene) -> None:
    scene.send()
    opened = scene.open()
    request = CancelRequest.parse({"session_id": SESSION, "turn_id": opened.intent.turn_id, "reason": "too slow"})
    assert scene.ingress.cancel(request).as_json() == {
        "session_id": SESSION,
        "verdict": "requested",
        "turn_id": opened.intent.turn_id,
    }
    scene.die(opened)
    opened = scene.open()
    assert opened.cancel
    scene.commit(opened)
    assert scene.ingress.cancel(request).verdict is CancelVerdict.ENDED


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "input_id: give exactly one of input_id, idempotency_key and turn_id"),
        ({"input_id": "a", "turn_id": "b"}, "input_id: give exactly one of input_id, idempotency_key and turn_id"),
        ({"input_id": "a\x00"}, "input_id: must not contain control characters"),
        ({"input_id": 7}, "input_id: must be a string, not int"),
        ({"turn_id": "t", "reason": ""}, "reason: must not be empty"),
        ({"input_id": "a", "force": True}, "force: is not a known field"),
    ],
)
def test_a_bad_cancel_is_refused_by_field(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        CancelRequest.parse({"session_id": SESSION, **values})
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"input_id": "unknown"}, "there is no input 'unknown'"),
        ({"idempotency_key": "unknown"}, "there is no input with the idempotency key 'unknown'"),
    ],
)
def test_cancelling_an_unknown_input_says_so(scene: Scene, named: dict[str, str], sentence: str) -> None:
    with pytest.raises(NotFound, match=sentence):
        scene.ingress.cancel(CancelRequest.parse({"session_id": SESSION, **named}))


@pytest.mark.parametrize("turn_id", ["1", "unknown"])
def test_cancelling_an_unknown_turn_says_so(scene: Scene, turn_id: str) -> None:
    """An index given for an id was answered `ended`, for a turn that ran."""
    scene.send()
    scene.open()
    with pytest.raises(NotFound, match=f"there is no turn '{turn_id}'"):
        scene.ingress.cancel(CancelRequest.parse({"session_id": SESSION, "turn_id": turn_id}))
    assert scene.stored()["lash_turn_cancels"] == 0


# ---------------------------------------------------------------- replay


def test_a_dead_letter_is_sent_again_once(scene: Scene) -> None:
    input_id = scene.send(text="poison")
    scene.commit(scene.open(), dead_reason="attempts_exhausted")
    scene.doorbell.rung.clear()
    first, second = scene.ingress.replay(input_id), scene.ingress.replay(input_id)
    assert (first.created, second.created, second.id) == (True, False, first.id)
    [batch] = scene.queue.waiting()
    assert batch.replay_of == input_id
    assert SESSION in scene.doorbell.rung


def test_replaying_what_is_no_dead_letter_says_so(scene: Scene) -> None:
    with pytest.raises(NotFound, match="there is no dead letter"):
        scene.ingress.replay(scene.send())
