"""Providers that an application names: checked where they are written, opened by the registry, keyed at each call."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from lash_tasks import Lash, Limits, OpenAI, TurnContext, env
from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.domain.messages import TextPart
from lash_tasks.errors import ConfigurationError
from lash_tasks.ports import ProviderFailure
from lash_tasks.providers import open_providers
from lash_tasks.providers.named import NamedProvider
from lash_tasks.providers.scripted import ScriptedProvider
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.settings import Settings
from tests.endpoint import ModelEndpoint, error_reply, text_reply
from tests.providers.parts import KEY, TURN, RecordingStream, call_of

ELSEWHERE = Settings(openai_base_url="http://127.0.0.1:9/v1", openai_api_key=SecretStr("key-of-the-vendor"))


def ask(provider: NamedProvider, turn: TurnContext = TURN) -> str:
    """The text of one call, through a registry whose shipped providers point elsewhere."""
    providers = open_providers(ELSEWHERE, SystemClock(), {"mine": provider})
    try:
        call = replace(call_of(), turn=turn)
        [part] = providers.get("mine").complete(call, RecordingStream(), TurnInterrupt(SystemClock())).parts
    finally:
        providers.close()
    assert isinstance(part, TextPart)
    return part.text


def authorizations(endpoint: ModelEndpoint) -> list[str | None]:
    return [request.headers.get("authorization") for request in endpoint.requests]


def test_an_endpoint_without_a_key_gets_none() -> None:
    """Above all not the vendor's, which would hand it to a stranger."""
    with ModelEndpoint(lambda _: text_reply("hi")) as endpoint:
        assert ask(OpenAI(base_url=endpoint.base_url)) == "hi"
        assert authorizations(endpoint) == [None]


def test_a_key_is_the_string_given() -> None:
    with ModelEndpoint(lambda _: text_reply("hi")) as endpoint:
        ask(OpenAI(base_url=endpoint.base_url, api_key=KEY))
        assert authorizations(endpoint) == [f"Bearer {KEY}"]


def test_a_variable_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_KEY", raising=False)
    with ModelEndpoint(lambda _: text_reply("hi")) as endpoint:
        provider = OpenAI(base_url=endpoint.base_url, api_key=env("VLLM_KEY"))
        for key in ("first-key", "second-key"):
            monkeypatch.setenv("VLLM_KEY", key)
            ask(provider)
        assert authorizations(endpoint) == ["Bearer first-key", "Bearer second-key"]


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_KEY", raising=False)
    with pytest.raises(ProviderFailure, match="Set VLLM_KEY, which is the api_key of provider 'mine'") as caught:
        ask(OpenAI(base_url="http://127.0.0.1:9/v1", api_key=env("VLLM_KEY")))
    assert (caught.value.code, caught.value.kind) == ("missing_api_key", "auth")


def test_a_function_finds_the_key_of_the_caller() -> None:
    keys = {42: "key-of-42", 43: None}
    with ModelEndpoint(lambda _: text_reply("hi")) as endpoint:
        provider = OpenAI(base_url=endpoint.base_url, api_key=lambda turn: keys[turn.context["user_id"]])
        ask(provider, replace(TURN, context={"user_id": 42}))
        ask(provider, replace(TURN, context={"user_id": 43}))
        assert authorizations(endpoint) == ["Bearer key-of-42", None]


def test_a_function_that_fails_shows_nothing_of_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    def broken(turn: TurnContext) -> str:
        raise KeyError(KEY)

    with pytest.raises(ProviderFailure) as caught:
        ask(OpenAI(base_url="http://127.0.0.1:9/v1", api_key=broken))
    assert caught.value.message == "the function for the api_key of provider 'mine' raised KeyError"
    assert (caught.value.code, caught.value.retryable) == ("api_key_failed", False)
    with pytest.raises(ProviderFailure, match="must return a string or None, not int"):
        ask(OpenAI(base_url="http://127.0.0.1:9/v1", api_key=lambda _: 5))  # type: ignore[arg-type, return-value]
    assert KEY not in caplog.text
    assert KEY not in repr(vars(caught.value))


def test_a_key_that_the_server_echoes_is_in_no_failure_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ModelEndpoint(lambda _: error_reply(401, f"no {KEY}")) as endpoint:
        for provider in (
            OpenAI(base_url=endpoint.base_url, api_key=KEY),
            OpenAI(base_url=endpoint.base_url, api_key=lambda _: KEY),
        ):
            with pytest.raises(ProviderFailure) as caught:
                ask(provider)
            assert caught.value.message == "mine request failed with 401: no [redacted]"
            assert KEY not in repr(provider) + repr(vars(caught.value)) + caplog.text
        assert authorizations(endpoint) == [f"Bearer {KEY}"] * 2


def test_without_a_base_url_it_is_the_server_of_the_settings() -> None:
    with ModelEndpoint(lambda _: text_reply("hi")) as endpoint:
        settings = Settings(openai_base_url=endpoint.base_url, openai_api_key=SecretStr(KEY))
        limited = {"openai": OpenAI(limits=Limits(concurrency=3)), "other": OpenAI(api_key="key-of-mine")}
        providers = open_providers(settings, FakeClock(), limited)
        for name in limited:
            providers.get(name).complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
        providers.close()
        assert authorizations(endpoint) == [f"Bearer {KEY}", "Bearer key-of-mine"]


def test_the_registry_knows_the_limits_of_each_provider() -> None:
    limits = Limits(concurrency=2, requests_per_minute=60)
    named: dict[str, NamedProvider] = {
        "vllm": OpenAI(base_url="http://h/v1", limits=limits),
        "mine": ScriptedProvider(),
    }
    providers = open_providers(Settings(), FakeClock(), named)
    assert providers.limits("vllm") == limits
    assert [providers.limits(name) for name in ("mine", "openai", "nobody")] == [None] * 3
    providers.close()


@pytest.mark.parametrize("name", ["a:b", "", " ", "two words", "-x", "ü", 5])
def test_a_name_that_is_not_plain_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a plain name"):
        Lash(providers={name: OpenAI()})


@pytest.mark.parametrize("value", [None, "http://h/v1", ScriptedProvider, OpenAI, object()])
def test_a_provider_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="providers: 'mine' must be"):
        Lash(providers={"mine": value})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"base_url": "api.openai.com"}, "OpenAI: base_url: must begin with http"),
        ({"base_url": 5}, "OpenAI: base_url: must begin with http"),
        ({"base_url": "http://u:p@h/v1"}, "OpenAI: base_url: must hold no user name or password; use OpenAI: api_key"),
        ({"api_key": 5}, "OpenAI: api_key must be a string"),
        ({"limits": 5}, "OpenAI: limits must be Limits"),
    ],
)
def test_a_wrong_field_of_an_endpoint_is_refused_by_its_name(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        OpenAI(**fields)


def test_an_async_key_function_is_refused() -> None:
    async def later(turn: TurnContext) -> str:
        return ""

    with pytest.raises(ConfigurationError, match="api_key must be a plain function"):
        OpenAI(api_key=later)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "A B", "1A", None])
def test_a_variable_that_cannot_be_one_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="env:"):
        env(name)
