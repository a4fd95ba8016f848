"""Providers are found by name, opened from the settings and closed together."""

from __future__ import annotations

import pytest

from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.domain.messages import TextPart
from lash_tasks.ports import ProviderFailure
from lash_tasks.providers import ProviderRegistry, open_providers
from lash_tasks.providers.scripted import ScriptedProvider
from lash_tasks.runtime.interrupts import TurnInterrupt
from lash_tasks.settings import Settings
from tests.endpoint import ModelEndpoint, text_reply
from tests.providers.parts import KEY, RecordingStream, call_of
from tests.services import wait_until


def test_an_unknown_provider_names_the_known_ones() -> None:
    providers = open_providers(Settings(), FakeClock())
    with pytest.raises(ProviderFailure, match="known providers: anthropic, openai, scripted") as caught:
        providers.get("vllm")
    assert caught.value.code == "llm_provider"
    providers.close()
    with pytest.raises(ProviderFailure, match="known providers: none"):
        ProviderRegistry({}).get("openai")


def test_the_shipped_providers_work_from_the_settings_and_close() -> None:
    with ModelEndpoint(lambda _: text_reply("hi")) as endpoint:
        environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": endpoint.base_url + "/"}
        providers = open_providers(Settings.from_environment(environment), SystemClock())
        interrupt = TurnInterrupt(SystemClock())
        answer = providers.get("openai").complete(call_of(), RecordingStream(), interrupt)
        assert answer.parts == (TextPart("hi"),)
        assert endpoint.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert endpoint.requests[0].path == "/v1/chat/completions"
        answer = providers.get("scripted").complete(call_of(model="echo"), RecordingStream(), interrupt)
        assert answer.parts == (TextPart("You said: hello"),)
        providers.close()
        wait_until(lambda: endpoint.connections == 0, 5, "the connection to close")


def test_no_key_is_no_obstacle_until_it_is_needed() -> None:
    providers = open_providers(Settings(), FakeClock())
    with pytest.raises(ProviderFailure, match="Set OPENAI_API_KEY"):
        providers.get("openai").complete(call_of(), RecordingStream(), TurnInterrupt(FakeClock()))
    providers.close()


def test_providers_of_ones_own_come_before_the_shipped_ones() -> None:
    mine, more = ScriptedProvider(), ScriptedProvider()
    providers = open_providers(Settings(), FakeClock(), {"scripted": mine, "vllm": more})
    assert providers.get("scripted") is mine
    assert providers.get("vllm") is more
    providers.close()
