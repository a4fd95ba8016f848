"""An embedded application with model servers of its own, by name."""

from __future__ import annotations

import pytest

from lash_tasks import Agent, Anthropic, Lash, ModelOptions, OpenAI, Settings, env, tool
from lash_tasks.errors import ConfigurationError
from tests import messages_endpoint as messages
from tests.endpoint import ModelEndpoint

PATIENCE = 20.0


@tool
def lookup(text: str) -> str:
    """Look something up."""
    return f"found {text}"


def test_agents_ask_the_servers_that_the_application_names(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", "key-of-vllm")
    options = ModelOptions(temperature=0.2)
    with ModelEndpoint() as chat, ModelEndpoint(messages.strict(messages.converse)) as claude:
        gateway = messages.base_url(claude)
        providers = {
            "vllm": OpenAI(base_url=chat.base_url, api_key=env("VLLM_KEY")),
            "gateway": Anthropic(base_url=gateway, api_key=lambda turn: f"key-of-{turn.context['user']}"),
        }
        agents = [
            Agent("one", "vllm:small", tools=[lookup], options=options),
            Agent("two", "gateway:claude-sonnet-4-6", tools=[lookup], options=options),
        ]
        with Lash(agents, providers=providers, embedded=True, settings=Settings(database_url=sqlite_url)) as lash:
            for agent in agents:
                receipt = lash.client.send(agent.name, "order 12", agent=agent.name, context={"user": "kim"})
                turn = receipt.result(timeout=PATIENCE)
                assert (turn.text, turn.errors) == ("answer: order 12", ())
        assert [request.headers["authorization"] for request in chat.requests] == ["Bearer key-of-vllm"] * 2
        assert [request.headers["x-api-key"] for request in claude.requests] == ["key-of-kim"] * 2
        assert {request.body["temperature"] for request in chat.requests + claude.requests} == {0.2}


@pytest.mark.parametrize(
    ("agent", "problem"),
    [
        (Agent("support", "nope:gpt-5"), "there is no provider 'nope' for its model 'nope:gpt-5'"),
        (Agent("support", "openai:gpt-5", fallbacks=["vlm:qwen"]), "there is no provider 'vlm' for its model"),
    ],
)
def test_an_agent_whose_model_no_server_has_is_refused_at_the_start(
    sqlite_url: str, agent: Agent, problem: str
) -> None:
    """Every turn of it ended with `llm_provider`."""
    providers = {"vllm": OpenAI(base_url="http://127.0.0.1:1/v1")}
    lash = Lash([agent], providers=providers, embedded=True, settings=Settings(database_url=sqlite_url))
    with pytest.raises(ConfigurationError, match=f"^agent 'support': {problem}.* anthropic, openai, scripted, vllm$"):
        lash.start()
