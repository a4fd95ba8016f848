"""The door: what is accepted is stored as it was sent, what is refused names its field and leaves nothing behind."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from sqlalchemy import select

from lash_tasks.domain.codec import decode
from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.inputs import QueuedInput, context_digest
from lash_tasks.domain.messages import ImagePart, TextPart
from lash_tasks.domain.queue import BatchRecord
from lash_tasks.errors import (
    ErrorCode,
    IdempotencyConflict,
    InvalidInput,
    LashError,
    PayloadTooLarge,
    SessionBusy,
)
from lash_tasks.runtime.ingress import SendRequest
from lash_tasks.stores.sql.tables import agents, batches
from tests.scene import MAX_PAYLOAD_BYTES, SESSION, Scene, on_every_backend

PNG = b"\x89PNG\r\n\x1a\nan image"
PNG_TEXT = base64.b64encode(PNG).decode()
GOOD: dict[str, Any] = {"session_id": "customer-7", "agent": "support", "text": "hello"}
MERGE: dict[str, Any] = {"when": "merge", "merge_key": "g"}
RULES = "must be 'queue', 'steer', 'interrupt', 'reject' or 'merge'"
OUR_KEYS = "must not begin with 'process:' or 'command:', as keys of wakes and commands do"
EMPTY = {"lash_batches": 0, "lash_blobs": 0, "lash_sessions": 0, "lash_turn_cancels": 0}


def image_input(*items: Any, **blobs: Any) -> dict[str, Any]:
    return {"text": None, "input": {"items": list(items), "image_blobs": blobs}}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


INVALID, TOO_LARGE = ErrorCode.INVALID_INPUT, ErrorCode.PAYLOAD_TOO_LARGE
REFUSED: dict[str, tuple[dict[str, Any], ErrorCode, str, str]] = {
    "unknown agent": (
        {"agent": "nobody"},
        ErrorCode.UNKNOWN_AGENT,
        "agent",
        "no worker serves 'nobody'; known agents: support",
    ),
    "no agent": ({"agent": ...}, INVALID, "agent", "is required"),
    "no session": ({"session_id": ...}, INVALID, "session_id", "is required"),
    "empty session": ({"session_id": " "}, INVALID, "session_id", "must not be empty"),
    "long session": ({"session_id": "s" * 201}, INVALID, "session_id", "is 201 characters and may be at most 200"),
    "control character in session": (
        {"session_id": "a\x07b"},
        INVALID,
        "session_id",
        "must not contain control characters",
    ),
    "NUL in session": ({"session_id": "a\x00b"}, INVALID, "session_id", "must not contain control characters"),
    "lone surrogate in session": (
        {"session_id": "a\ud800"},
        INVALID,
        "session_id",
        "must not contain control characters",
    ),
    "session of another type": ({"session_id": 7}, INVALID, "session_id", "must be a string, not int"),
    "long key": (
        {"idempotency_key": "k" * 201},
        INVALID,
        "idempotency_key",
        "is 201 characters and may be at most 200",
    ),
    "empty key": ({"idempotency_key": ""}, INVALID, "idempotency_key", "must not be empty"),
    "no text": ({"text": ...}, INVALID, "text", "is required"),
    "empty text": ({"text": ""}, INVALID, "text", "must not be empty"),
    "blank text": ({"text": " \n\t"}, INVALID, "text", "must not be empty"),
    "bytes for text": ({"text": b"hello"}, INVALID, "text", "must be a string, not bytes"),
    "lone surrogate in text": ({"text": "a\ud800"}, INVALID, "text", "must be Unicode text, and has a lone surrogate"),
    "long text": (
        {"text": "ä" * (MAX_PAYLOAD_BYTES // 2) + "x"},
        TOO_LARGE,
        "text",
        "is 1048577 bytes and may be at most 1048576",
    ),
    "text and input": (
        {"input": {"items": [{"type": "text", "text": "x"}]}},
        INVALID,
        "text",
        "cannot be given together with input; choose one",
    ),
    "input of another type": ({"text": None, "input": "x"}, INVALID, "input", "must be an object, not str"),
    "input without items": ({"text": None, "input": {}}, INVALID, "input.items", "is required"),
    "no items": (image_input(), INVALID, "input.items", "must hold an image or a text that is not empty"),
    "only blank items": (
        image_input({"type": "text", "text": " "}, {"type": "text", "text": ""}),
        INVALID,
        "input.items",
        "must hold an image or a text that is not empty",
    ),
    "item of another type": (image_input("hello"), INVALID, "input.items[0]", "must be an object, not str"),
    "item of unknown kind": (
        image_input({"type": "video", "id": "v"}),
        INVALID,
        "input.items[0].type",
        "must be 'text' or 'image_ref'",
    ),
    "item without kind": (image_input({"text": "x"}), INVALID, "input.items[0].type", "must be 'text' or 'image_ref'"),
    "wrong type in an item": (
        image_input({"type": "text", "text": "x"}, {"type": "text", "text": 3}),
        INVALID,
        "input.items[1].text",
        "must be a string, not int",
    ),
    "unknown field in an item": (
        image_input({"type": "text", "text": "x", "size": 1}),
        INVALID,
        "input.items[0].size",
        "is not a known field",
    ),
    "image without a blob": (
        image_input({"type": "text", "text": "see"}, {"type": "image_ref", "id": "a"}),
        INVALID,
        "input.items[1].id",
        "there is no image_blobs entry 'a'",
    ),
    "blob that is no image": (
        image_input({"type": "image_ref", "id": "a"}, a=base64.b64encode(b"%PDF").decode()),
        INVALID,
        "input.image_blobs['a']",
        "is not a png, jpeg, gif, webp or bmp image",
    ),
    "blob that is no base64": (
        image_input({"type": "image_ref", "id": "a"}, a="!"),
        INVALID,
        "input.image_blobs['a']",
        "must be base64",
    ),
    "blob of another type": (
        image_input({"type": "image_ref", "id": "a"}, a=7),
        INVALID,
        "input.image_blobs['a']",
        "must be a base64 string, not int",
    ),
    "large image": (
        image_input({"type": "image_ref", "id": "a"}, a=base64.b64encode(PNG + bytes(MAX_PAYLOAD_BYTES)).decode()),
        TOO_LARGE,
        "input",
        f"is {len(PNG) + 1 + MAX_PAYLOAD_BYTES} bytes and may be at most 1048576",
    ),
    "context of another type": ({"context": [1]}, INVALID, "context", "must be an object, not list"),
    "context that is not JSON": (
        {"context": {"when": object()}},
        INVALID,
        "context",
        "must be JSON: objects, arrays, strings, finite numbers, true, false and null",
    ),
    "NaN in the context": (
        {"context": {"x": float("nan")}},
        INVALID,
        "context",
        "must be JSON: objects, arrays, strings, finite numbers, true, false and null",
    ),
    "lone surrogate in the context": (
        {"context": {"x": ["\udfff"]}},
        INVALID,
        "context",
        "must be Unicode text, and has a lone surrogate",
    ),
    "deep context": ({"context": nested(101)}, INVALID, "context", "is nested deeper than 100 levels"),
    "very deep context": ({"context": nested(100_000)}, INVALID, "context", "is nested too deeply"),
    "large context": (
        {"context": {"x": "y" * 16_377}},
        TOO_LARGE,
        "context",
        "is 16385 bytes and may be at most 16384",
    ),
    "unknown rule": ({"when": "later"}, INVALID, "when", RULES),
    "rule of another type": ({"when": 3}, INVALID, "when", RULES),
    "no rule": ({"when": None}, INVALID, "when", RULES),
    "merge without a key": ({"when": "merge"}, INVALID, "merge_key", "is required with when='merge'"),
    "an empty merge key": ({"when": "merge", "merge_key": " "}, INVALID, "merge_key", "must not be empty"),
    "a merge key without merge": (
        {"when": "steer", "merge_key": "g"},
        INVALID,
        "merge_key",
        "goes with when='merge' only, not with 'steer'",
    ),
    "a quiet period without merge": (
        {"quiet_ms": 5},
        INVALID,
        "quiet_ms",
        "goes with when='merge' only, not with 'queue'",
    ),
    "a quiet period of none": ({**MERGE, "quiet_ms": 0}, INVALID, "quiet_ms", "must be at least 1"),
    "a quiet period of hours": ({**MERGE, "quiet_ms": 3_600_001}, INVALID, "quiet_ms", "must be at most 3600000"),
    "a quiet period in seconds": ({**MERGE, "quiet_ms": 0.5}, INVALID, "quiet_ms", "must be an integer, not float"),
    "a quiet period and a delay": (
        {**MERGE, "quiet_ms": 5, "available_at_ms": 1},
        INVALID,
        "available_at_ms",
        "cannot be given together with a quiet period; choose one",
    ),
    "a model for a turn that may be another's": (
        {"when": "steer", "model": "scripted:echo"},
        INVALID,
        "model",
        "answers a whole turn, which input sent with 'steer' may share with other input",
    ),
    "an interruption of later": (
        {"when": "interrupt", "available_at_ms": 1},
        INVALID,
        "available_at_ms",
        "cannot be given with when='interrupt', which is about now",
    ),
    "negative time": ({"available_at_ms": -1}, INVALID, "available_at_ms", "must be at least 0"),
    "time beyond the calendar": (
        {"available_at_ms": 10**18},
        INVALID,
        "available_at_ms",
        "must be at most 253402300799999",
    ),
    "time with a fraction": ({"available_at_ms": 1.0}, INVALID, "available_at_ms", "must be an integer, not float"),
    "true for a time": ({"available_at_ms": True}, INVALID, "available_at_ms", "must be an integer, not bool"),
    "a key of ours": ({"idempotency_key": "process:p:event:1:wake"}, INVALID, "idempotency_key", OUR_KEYS),
    "a command's key": ({"idempotency_key": "command:reset_session:k"}, INVALID, "idempotency_key", OUR_KEYS),
    "unknown field": ({"priority": 1}, INVALID, "priority", "is not a known field"),
    "unknown field with a strange name": ({"x\n" * 100: 1}, INVALID, "x?" * 40 + "…", "is not a known field"),
}


@pytest.mark.parametrize(("changed", "code", "field", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_input_is_refused_by_field_and_nothing_is_stored(
    scene: Scene, changed: dict[str, Any], code: ErrorCode, field: str, problem: str
) -> None:
    values = {name: value for name, value in {**GOOD, **changed}.items() if value is not ...}
    with pytest.raises(InvalidInput) as refusal:
        scene.ingress.accept(SendRequest.parse(values))
    assert refusal.value.as_json() == {"code": code.value, "message": f"{field}: {problem}", "field": field}
    assert scene.stored() == EMPTY
    assert scene.doorbell.rung == []


@on_every_backend
@pytest.mark.shows("Q20")
@pytest.mark.parametrize("field", ["context", "input"])
def test_a_live_object_is_refused_before_anything_is_stored(scene: Scene, field: str) -> None:
    """A queue carries data: what lives in one process cannot wait for another."""
    text = {"type": "text", "text": scene}
    live = {"context": {"context": {"connection": scene.database}}, "input": image_input(text)}
    with pytest.raises(InvalidInput) as refusal:
        scene.ingress.accept(SendRequest.parse({**GOOD, **live[field]}))
    assert refusal.value.field == {"context": "context", "input": "input.items[0].text"}[field]
    assert scene.stored() == EMPTY


def test_a_refusal_does_not_repeat_what_was_sent(scene: Scene) -> None:
    for changed in ({"text": ["my password"]}, {"context": "my password"}, {"when": "my password"}):
        with pytest.raises(InvalidInput) as refusal:
            SendRequest.parse({**GOOD, **changed})
        assert "password" not in str(refusal.value)
        assert refusal.value.__cause__ is None


@pytest.mark.raises_code("payload_too_large")
def test_one_byte_over_the_limit_is_refused_with_both_sizes(scene: Scene) -> None:
    with pytest.raises(PayloadTooLarge) as refusal:
        scene.send(text="x" * (MAX_PAYLOAD_BYTES + 1))
    assert refusal.value.args == ("text", MAX_PAYLOAD_BYTES + 1, MAX_PAYLOAD_BYTES)
    assert scene.stored() == EMPTY


@pytest.mark.raises_code("no_worker_has_registered")
def test_an_input_before_any_worker_has_registered_is_refused(scene: Scene) -> None:
    with scene.database.transaction() as connection:
        connection.execute(agents.delete())
    with pytest.raises(LashError) as refusal:
        scene.send()
    assert refusal.value.code is ErrorCode.NO_WORKER_HAS_REGISTERED
    assert scene.stored() == EMPTY


# ---------------------------------------------------------------- what is accepted


def only_batch(scene: Scene) -> BatchRecord:
    [batch] = scene.queue.waiting()
    return batch


def test_an_accepted_input_is_stored_as_sent_and_rung_for(scene: Scene) -> None:
    accepted = scene.ingress.accept(SendRequest.parse({**GOOD, "context": {"user_id": 42, "tags": [None]}}))
    batch = only_batch(scene)
    assert (accepted.id, accepted.session_id, accepted.created) == (batch.id, "customer-7", True)
    queued = decode(QueuedInput, batch.payload)
    assert queued == QueuedInput("support", (TextPart("hello"),), {"user_id": 42, "tags": [None]})
    assert (batch.agent, batch.early, batch.exclusive, batch.merge_key) == ("support", False, True, None)
    assert scene.doorbell.rung == ["customer-7"]


def test_the_context_digest_is_the_one_that_the_turn_computes(scene: Scene) -> None:
    scene.send(context={"b": (1, 2), "a": {3: 1.0}})
    context = decode(QueuedInput, only_batch(scene).payload).context
    assert context == {"a": {"3": 1.0}, "b": [1, 2]}
    with scene.database.reading() as connection:
        assert connection.execute(select(batches.c.context_digest)).scalar_one() == context_digest(context)


def test_nul_bytes_in_text_are_kept(scene: Scene) -> None:
    scene.send(text="a\x00b")
    assert decode(QueuedInput, only_batch(scene).payload).parts == (TextPart("a\x00b"),)


def test_the_limits_themselves_are_accepted(scene: Scene) -> None:
    scene.send(text="x" * MAX_PAYLOAD_BYTES, session_id="s" * 200, idempotency_key="k" * 200)
    scene.send(context={"x": "y" * 16_376})
    scene.send(context=nested(100))
    assert scene.stored()["lash_batches"] == 3


@pytest.mark.parametrize("blob", [PNG, PNG_TEXT], ids=["bytes", "base64"])
def test_text_and_images_are_stored_by_content(scene: Scene, blob: object) -> None:
    scene.ingress.accept(
        SendRequest.parse(
            {
                **GOOD,
                **image_input(
                    {"type": "text", "text": "What "},
                    {"type": "text", "text": "is this?"},
                    {"type": "image_ref", "id": "photo"},
                    photo=blob,
                    unused=blob,
                ),
            }
        )
    )
    assert decode(QueuedInput, only_batch(scene).payload).parts == (
        TextPart("What is this?"),
        ImagePart(blob_ref(PNG), "image/png", "photo"),
    )
    assert scene.stored()["lash_blobs"] == 1


def test_a_delayed_input_is_stored_and_not_rung_for(scene: Scene) -> None:
    scene.send(available_at_ms=scene.clock.now_ms() + 1)
    assert scene.doorbell.rung == []
    scene.send(available_at_ms=scene.clock.now_ms())
    assert scene.doorbell.rung == [SESSION]


# ---------------------------------------------------------------- idempotency


def test_the_same_input_under_the_same_key_is_stored_and_rung_for_once(scene: Scene) -> None:
    request = SendRequest.parse({**GOOD, "idempotency_key": "msg-1", "context": {"a": 1, "b": 2}})
    again = SendRequest.parse(
        {
            **GOOD,
            "text": None,
            "input": {"items": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
            "idempotency_key": "msg-1",
            "context": {"b": 2, "a": 1},
            "available_at_ms": 99,
        }
    )
    first, second = scene.ingress.accept(request), scene.ingress.accept(again)
    assert (second.id, first.created, second.created) == (first.id, True, False)
    assert scene.stored()["lash_batches"] == 1
    assert scene.doorbell.rung == [SESSION]


@pytest.mark.raises_code("idempotency_conflict")
@pytest.mark.parametrize("changed", [{"text": "bye"}, {"context": {"x": 1}}, {"when": "reject"}, {"merge_key": "h"}])
def test_another_input_under_the_same_key_is_a_conflict(scene: Scene, changed: dict[str, Any]) -> None:
    first = {"idempotency_key": "msg-1", **(MERGE if "merge_key" in changed else {})}
    scene.send(**first)
    with pytest.raises(IdempotencyConflict):
        scene.send(**{**first, **changed})
    assert scene.stored()["lash_batches"] == 1


def test_a_quiet_period_is_not_part_of_the_input(scene: Scene) -> None:
    first = scene.send(**MERGE, idempotency_key="msg-1", quiet_ms=5)
    assert scene.send(**MERGE, idempotency_key="msg-1", quiet_ms=6) == first


def test_input_that_waits_for_quiet_is_not_rung_for(scene: Scene) -> None:
    scene.send(**MERGE, quiet_ms=5)
    assert scene.doorbell.rung == []
    scene.send(**MERGE)
    assert scene.doorbell.rung == [SESSION]


def test_a_message_that_is_delivered_twice_stores_one_input(scene: Scene) -> None:
    request = SendRequest.parse(GOOD)
    first = scene.ingress.accept(request, default_source_key="celery:task-1")
    second = scene.ingress.accept(request, default_source_key="celery:task-1")
    other = scene.ingress.accept(request, default_source_key="celery:task-2")
    assert (second.id, second.created) == (first.id, False)
    assert other.created


def test_an_idempotency_key_comes_before_the_message_id(scene: Scene) -> None:
    request = SendRequest.parse({**GOOD, "idempotency_key": "msg-1"})
    scene.ingress.accept(request, default_source_key="celery:task-1")
    assert not scene.ingress.accept(request, default_source_key="celery:task-2").created


# ---------------------------------------------------------------- reject


@on_every_backend
@pytest.mark.shows("L10")
def test_reject_refuses_a_session_that_has_work_and_stores_nothing(scene: Scene) -> None:
    scene.send(when="reject", idempotency_key="first")
    with pytest.raises(SessionBusy):
        scene.send(when="reject")
    assert not scene.ingress.accept(
        SendRequest.parse({**GOOD, "when": "reject", "idempotency_key": "first"})
    ).created  # the same key is answered, not refused
    opened = scene.open()
    with pytest.raises(SessionBusy):
        scene.send(when="reject")
    scene.commit(opened)
    scene.send(when="reject")
    assert scene.stored()["lash_batches"] == 2


def test_reject_cannot_ride_in_a_callers_transaction(scene: Scene) -> None:
    request = SendRequest.parse({**GOOD, "when": "reject"})
    with scene.database.transaction() as connection, pytest.raises(InvalidInput, match="when: 'reject' cannot be used"):
        scene.ingress.accept(request, connection=connection)
    assert scene.stored() == EMPTY
