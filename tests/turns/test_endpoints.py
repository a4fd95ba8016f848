"""Turns against a real endpoint over HTTP: refusals end the turn, images arrive as they were sent."""

from __future__ import annotations

import base64
import logging

import pytest
from pydantic import SecretStr

from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.messages import ImagePart
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.ports import Interrupt, ModelCall
from tests.endpoint import ModelEndpoint, error_reply, last_user_text, text_reply
from tests.turns.models import Model
from tests.turns.stage import SESSION, Stage, agent

KEY = "sk-test-sentinel-key"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400


def at(endpoint: ModelEndpoint, stage: Stage) -> Stage:
    """The stage with its agent asking the endpoint."""
    stage.settings = stage.settings.model_copy(
        update={"openai_base_url": endpoint.base_url, "openai_api_key": SecretStr(KEY)}
    )
    stage.agents = [agent(model="openai:small")]
    return stage


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_ends_the_turn_at_once_and_the_next_message_is_answered(
    stage: Stage, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with ModelEndpoint() as endpoint:
        at(endpoint, stage)
        endpoint.script = lambda request: error_reply(status, f"no {KEY} {last_user_text(request)}", code="refused")
        turn = stage.answer("hello")
        assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
        (issue,) = turn.errors
        assert issue.code == "refused"
        assert f"with {status}" in issue.message
        assert len(endpoint.requests) == 1
        assert KEY not in str(turn)
        assert KEY not in caplog.text

        endpoint.script = lambda request: text_reply(f"answer: {last_user_text(request)}")
        assert stage.answer("again").text == "answer: again"
        assert [message["role"] for message in endpoint.requests[-1].body["messages"]] == ["system", "user", "user"]


def test_an_image_reaches_the_endpoint_with_the_bytes_that_were_sent(stage: Stage) -> None:
    items = [{"type": "text", "text": "what is it?"}, {"type": "image_ref", "id": "photo"}]
    with ModelEndpoint() as endpoint:
        at(endpoint, stage)
        assert stage.answer(None, input={"items": items, "image_blobs": {"photo": PNG}}).ok
        (user,) = [message for message in endpoint.requests[0].body["messages"] if message["role"] == "user"]
        text, image = user["content"]
        assert text == {"type": "text", "text": "what is it?"}
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == PNG
        # Images of earlier turns are part of what the model is asked.
        stage.answer("and now?")
        assert endpoint.requests[1].body["messages"][1] == user


@pytest.mark.shows("Q30")
def test_an_image_reaches_a_provider_as_the_blob_that_was_sent(stage: Stage) -> None:
    seen: list[bytes] = []

    def look(call: ModelCall, _interrupt: Interrupt) -> None:
        parts = call.request.messages[0].parts
        seen.extend(call.load_blob(part.blob) for part in parts if isinstance(part, ImagePart))

    stage.model = Model(before=look)
    items = [{"type": "image_ref", "id": "a"}, {"type": "image_ref", "id": "b"}, {"type": "image_ref", "id": "a"}]
    other = b"GIF89a" + b"\x00" * 10
    stage.answer(None, input={"items": items, "image_blobs": {"a": PNG, "b": other}})
    assert seen == [PNG, other, PNG]
    stage.assert_usable()
    with stage.reading() as stores:
        assert stores.attachments.committed(SESSION) == sorted((blob_ref(PNG), blob_ref(other)))
