"""Whole turns with named providers and options: keys of callers, sessions that change from one vendor to another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr

from lash_tasks import ModelOptions, OpenAI, ToolContext, TurnContext, tool
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import ConfigurationError, LashError, NotFound, StoreUnavailable
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.providers.named import Anthropic
from lash_tasks.stores.sql import tables
from tests import messages_endpoint as messages
from tests.endpoint import ModelEndpoint, Reply, converse, error_reply
from tests.turns.models import Model
from tests.turns.stage import Stage, agent

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@tool
def lookup(text: str, ctx: ToolContext) -> str:
    """Look something up."""
    return f"found {text}"


def test_the_key_of_the_caller_is_used_and_stored_nowhere(stage: Stage) -> None:
    def key_of(turn: TurnContext) -> str:
        return f"secret-{turn.agent}-{turn.session_id}-{turn.context['user_id']}"

    with ModelEndpoint() as endpoint:
        stage.providers = {"vllm": OpenAI(base_url=endpoint.base_url, api_key=key_of)}
        stage.agents = [agent(lookup, model="vllm:small")]
        turn = stage.answer("order 12", context={"user_id": 42})
        assert turn.text == "answer: order 12"
        sent = [request.headers["authorization"] for request in endpoint.requests]
    key = f"secret-{stage.agents[0].name}-{turn.session_id}-42"
    assert sent == [f"Bearer {key}"] * 2
    assert not any(key in repr(stage.rows(table)) for table in tables.metadata.sorted_tables)


def test_a_turn_keeps_the_options_that_it_began_with(stage: Stage) -> None:
    with ModelEndpoint() as endpoint:
        stage.providers = {"vllm": OpenAI(base_url=endpoint.base_url)}
        first = agent(lookup, model="vllm:small", options=ModelOptions(temperature=0.2, extra={"seed": 7}))
        stage.agents = [first]

        def change(_: JsonObject) -> Reply:
            stage.agents = [replace(first, options=ModelOptions(temperature=0.9))]
            return converse(_)

        endpoint.script = change
        assert stage.answer("order 12").ok
        assert stage.answer("order 13").ok
        sent = [(request.body["temperature"], request.body.get("seed")) for request in endpoint.requests]
    assert sent == [(0.2, 7), (0.2, 7), (0.9, None), (0.9, None)]


def test_a_session_changes_from_one_vendor_to_the_other_and_back(stage: Stage) -> None:
    """With calls and reasoning of both in its history; each server refuses what the real one would."""
    with ModelEndpoint() as chat, ModelEndpoint(messages.strict(messages.converse)) as claude:
        stage.settings = stage.settings.model_copy(
            update={
                "openai_base_url": chat.base_url,
                "anthropic_base_url": messages.base_url(claude),
                "anthropic_api_key": SecretStr("key-of-mine"),
            }
        )
        options = ModelOptions(reasoning_effort="low")
        models = ("openai:small", "anthropic:claude-haiku-4-5", "openai:small", "anthropic:claude-haiku-4-5")
        for number, model in enumerate(models):
            stage.agents = [agent(lookup, model=model, options=options)]
            turn = stage.answer(f"order {number}")
            assert (turn.errors, turn.text) == ((), f"answer: order {number}")
            assert [call.outcome.value for call in turn.tool_calls] == [f"found order {number}"]
        last = claude.requests[-1].body["messages"]
        back = chat.requests[-1].body["messages"]
    thinking = [one for message in last for one in message["content"] if one["type"] == "thinking"]
    assert [one["signature"] for one in thinking] == ["signed:order 1", "signed:order 3"]
    assert "Look it up." not in repr(back)
    assert [message["role"] for message in last] == ["user", "assistant"] * 7 + ["user"]


def test_a_fallback_of_the_other_vendor_goes_on_in_the_middle_of_a_turn(stage: Stage) -> None:
    """It has not thought about the calls whose results it reads, and the server will not have it pretend to."""
    with ModelEndpoint() as chat, ModelEndpoint(messages.strict(messages.converse)) as claude:

        def once(request: JsonObject) -> Reply:
            return converse(request) if len(chat.requests) == 1 else error_reply(503, "down", Retry_After="0")

        chat.script = once
        stage.providers = {
            "vllm": OpenAI(base_url=chat.base_url),
            "claude": Anthropic(base_url=messages.base_url(claude)),
        }
        options = ModelOptions(reasoning_effort="low")
        stage.agents = [
            agent(lookup, model="vllm:small", fallbacks=["claude:claude-haiku-4-5"], options=options),
        ]
        turn = stage.answer("order 12")
        assert (turn.text, len(turn.tool_calls)) == ("answer: order 12", 1)
        assert ["thinking" in request.body for request in claude.requests] == [False]


def test_a_key_that_is_missing_ends_the_turn_with_its_name(stage: Stage) -> None:
    stage.settings = stage.settings.model_copy(update={"anthropic_api_key": None})
    stage.agents = [agent(model="anthropic:claude-haiku-4-5")]
    turn = stage.answer("hello")
    assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
    assert [(issue.code, issue.message) for issue in turn.errors] == [
        ("missing_api_key", "LLM error: Set ANTHROPIC_API_KEY")
    ]


@pytest.mark.raises_code("attachment_resolution_failed")
@pytest.mark.parametrize("model", ["vllm:small", "claude:small"])
def test_an_attachment_of_the_past_that_is_gone_is_a_recorded_failure(stage: Stage, model: str) -> None:
    items = [{"type": "text", "text": "what is it?"}, {"type": "image_ref", "id": "photo"}]
    stage.send(None, input={"items": items, "image_blobs": {"photo": PNG}})
    stage.run_all()
    with ModelEndpoint() as endpoint:
        stage.providers = {
            "vllm": OpenAI(base_url=endpoint.base_url),
            "claude": Anthropic(base_url=messages.base_url(endpoint)),
        }
        stage.agents = [agent(model=model)]
        assert stage.execute("DELETE FROM lash_blobs WHERE ref = :ref", ref=blob_ref(PNG)) == 1
        turn = stage.answer("and now?")
        assert endpoint.requests == []
    assert [issue.code for issue in turn.errors] == ["attachment_resolution_failed"]
    assert (turn.outcome, turn.attempt) == (stopped(StopKind.PROVIDER_ERROR), 1)


@pytest.mark.shows("P6", "Q28")
@pytest.mark.raises_code("invalid_turn_input")
def test_input_whose_image_nobody_has_is_consumed_with_a_record_and_asks_no_model(stage: Stage) -> None:
    stage.model = model = Model()
    items = [{"type": "text", "text": "what is it?"}, {"type": "image_ref", "id": "photo"}]
    batch_id = stage.send(None, input={"items": items, "image_blobs": {"photo": PNG}})
    assert stage.execute("DELETE FROM lash_blobs WHERE ref = :ref", ref=blob_ref(PNG)) == 1
    stage.run_all()

    turn = stage.last()
    assert turn.outcome == stopped(StopKind.INVALID_INPUT)
    assert [issue.code for issue in turn.errors] == ["invalid_turn_input"]
    assert stage.states() == {batch_id: BatchState.CONSUMED}
    assert model.asked.total() == 0


@pytest.mark.parametrize("error", [NotFound("order", "12"), ConfigurationError("no such thing")])
def test_an_error_of_ours_inside_a_provider_is_its_failure_and_no_crash(stage: Stage, error: LashError) -> None:
    def fail(_call: ModelCall, _interrupt: Interrupt) -> None:
        raise error

    stage.model = Model(before=fail)
    turn = stage.answer("hello")
    assert ([issue.code for issue in turn.errors], turn.attempt) == (["provider_raised"], 1)


def test_a_store_that_is_gone_while_an_attachment_is_read_lets_the_turn_be_tried_again(stage: Stage) -> None:
    failures = [StoreUnavailable("the database cannot be reached")]

    def fail(_call: ModelCall, _interrupt: Interrupt) -> None:
        if failures:
            raise failures.pop()

    stage.model = Model(before=fail)
    stage.send("hello")
    with pytest.raises(StoreUnavailable):
        stage.run()
    stage.run_all()
    turn = stage.last()
    assert (turn.ok, turn.errors) == (True, ())


def test_the_time_of_a_model_call_is_that_of_the_options(stage: Stage) -> None:
    allowed: list[float] = []
    stage.model = Model(before=lambda call, _: allowed.append(call.timeout_seconds))
    for timeout in (5, None):
        stage.agents = [agent(options=ModelOptions(timeout=timeout), max_turn_seconds=50)]
        stage.answer("hello")
    assert allowed[0] == 5
    assert 40 < allowed[1] <= 50
