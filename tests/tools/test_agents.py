"""An agent is checked when it is made, and its snapshot is what turns are pinned to."""

from __future__ import annotations

import sys
import threading
from typing import Any, cast

import pytest

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import decode, encode, to_json
from lash_tasks.domain.hooks import TurnSummary
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.domain.turns import TurnContext
from lash_tasks.errors import ConfigurationError
from lash_tasks.plugins.plugin import HookContext, Plugin
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.definition import tool

TURN = TurnContext(
    session_id=SessionId("s1"),
    turn_id=TurnId("t1"),
    turn_index=3,
    agent="support",
    context={"user": "kim"},
    admitted_at_ms=5,
)


@tool
def lookup(order_id: str, day: int | None = None) -> str:
    """Look it up."""
    return order_id + str(day)


@tool(name="lookup")
def another() -> None: ...


def greet(turn: TurnContext) -> str:
    return f"Serve {turn.context['user']} in turn {turn.turn_index}. \ud83d"


async def greet_later(turn: TurnContext) -> str:
    return turn.agent


def test_the_snapshot_holds_what_decides_a_turn() -> None:
    agent = Agent("support", "openai:gpt:5", instructions="Be brief.", tools=[lookup], max_iterations=3)
    assert agent.snapshot() == AgentSnapshot("support", "openai:gpt:5", "Be brief.", (lookup.spec,), 3, 600)
    assert agent.snapshot() is agent.snapshot()
    assert decode(AgentSnapshot, encode(AgentSnapshot, agent.snapshot())) == agent.snapshot()


def test_a_change_of_a_tool_changes_the_name_of_the_snapshot() -> None:
    refs = {Agent("a", "m:x", tools=tools).snapshot().ref() for tools in ([lookup], [another], [])}
    assert len(refs) == 3


def test_instructions_may_be_a_function_of_the_turn() -> None:
    agent = Agent("support", "m:x", instructions=greet)
    assert agent.snapshot().instructions is None
    assert agent.render(TURN) == "Serve kim in turn 3. \ufffd"
    assert Agent("support", "m:x", instructions="Be brief.").render(TURN) == "Be brief."


def test_an_instructions_function_that_returns_no_text_is_an_error() -> None:
    agent = Agent("support", "m:x", instructions=cast(Any, lambda turn: None))
    with pytest.raises(ConfigurationError, match="must return a string, not NoneType"):
        agent.render(TURN)


def test_tools_are_found_by_name() -> None:
    agent = Agent("support", "m:x", tools=[lookup])
    assert agent.tool("lookup") is lookup
    assert agent.tool("other") is None


class Good(Plugin):
    id = "good"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, "name must not be empty"),
        ({"name": "a" * 201}, "name is 201 characters and may be at most 200"),
        ({"name": "a\n"}, "name must not contain control characters"),
        ({"name": None}, "name must be a string"),
        ({"model": "gpt"}, "model must be 'provider:model'"),
        ({"model": ":gpt"}, "model must be 'provider:model'"),
        ({"model": "openai:"}, "model must be 'provider:model'"),
        ({"model": None}, "model must be a string"),
        ({"instructions": None}, "instructions must be a string or a plain function"),
        ({"instructions": greet_later}, "instructions must be a string or a plain function"),
        ({"instructions": lambda: "Be brief."}, "the instructions function must take one argument, the turn"),
        ({"compact": lambda: None}, "<lambda> must take one argument, the CompactionContext"),
        ({"tools": lookup}, "tools must be a list, not <tool lookup>"),
        ({"tools": None}, "tools must be a list, not None"),
        ({"tools": [len]}, "is not a tool; put @tool on the function"),
        ({"tools": [lookup, another]}, "two tools are named 'lookup'"),
        ({"plugins": Good()}, "plugins must be a list"),
        ({"plugins": [Good]}, "must be an object of a class that derives from Plugin"),
        ({"plugins": [Good(), Good()]}, "two plugins have the id 'good'"),
        ({"max_iterations": 0}, "max_iterations must be a whole number of at least 1, not 0"),
        ({"max_turn_seconds": 1.5}, "max_turn_seconds must be a whole number of at least 1, not 1.5"),
        ({"max_turn_seconds": True}, "max_turn_seconds must be a whole number"),
        ({"max_turn_seconds": sys.maxsize}, "max_turn_seconds must be at most 31536000, a year"),
    ],
)
def test_a_bad_agent_is_refused(changes: dict[str, Any], problem: str) -> None:
    fields: dict[str, Any] = {"name": "support", "model": "openai:gpt", **changes}
    with pytest.raises(ConfigurationError) as caught:
        Agent(**fields)
    assert str(caught.value).startswith("agent ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [("id", "", "id must not be empty"), ("version", 2, "version must be a string"), ("priority", "1", "whole number")],
)
def test_a_bad_plugin_is_refused(name: str, value: object, problem: str) -> None:
    class Bad(Good):
        pass

    setattr(Bad, name, value)
    with pytest.raises(ConfigurationError, match=problem):
        Agent("support", "m:x", plugins=[Bad()])


def test_functions_whose_signature_nobody_knows_are_believed_to_fit() -> None:
    """`str` has none, and takes what it is given."""
    assert Agent("support", "m:x", instructions=str).snapshot().instructions is None


@pytest.mark.parametrize(
    ("name", "method", "problem"),
    [
        ("before_turn", lambda self: None, r"before_turn must be a method of \(self, ctx\)"),
        ("after_turn", lambda self, ctx: None, r"after_turn must be a method of \(self, ctx, summary\)"),
        ("restore", lambda self: None, r"restore must be a method of \(self, state\)"),
        ("at_checkpoint", 5, r"at_checkpoint must be a method of \(self, ctx\)"),
        ("before_turnn", lambda self, ctx: None, "before_turnn is no hook, .* write before_turn, or _before_turnn for"),
        ("prepared_context", lambda self, ctx: None, "prepared_context is no hook, .* write prepare_context"),
    ],
)
def test_a_plugin_with_a_hook_that_cannot_or_would_never_be_called_is_refused(
    name: str, method: object, problem: str
) -> None:
    """The first kind failed every turn, the second was never heard of again."""
    bad = type("Bad", (Good,), {name: method})()
    with pytest.raises(ConfigurationError, match=f"^plugin 'good': {problem}"):
        Agent("support", "m:x", plugins=[bad])


def test_a_plugin_may_have_methods_of_its_own_and_hooks_that_take_more() -> None:
    class Busy(Good):
        def before_turn(self, ctx: HookContext, again: bool = False) -> None:
            pass

        def at_checkpoint(self, *args: object) -> None:
            pass

        def turns_seen(self) -> int:
            return 0

    spec = PluginSpec("good", "1", (Hook.BEFORE_TURN, Hook.AT_CHECKPOINT))
    assert Agent("support", "m:x", plugins=[Busy()]).snapshot().plugins == (spec,)


def test_an_agent_is_known_by_its_plugins_and_their_hooks() -> None:
    class Spoken(Good):
        version = "2"

        def after_turn(self, ctx: HookContext, summary: TurnSummary) -> None:
            pass

    spec = PluginSpec("good", "2", (Hook.AFTER_TURN,))
    assert Agent("support", "m:x", plugins=[Spoken()]).snapshot().plugins == (spec,)
    assert Agent("support", "m:x").snapshot().plugins is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"fallbacks": "openai:gpt-5"}, "fallbacks must be a list of models"),
        ({"fallbacks": ["gpt-5"]}, "fallback must be 'provider:model'"),
        ({"fallbacks": ["m:x"]}, "must be other models"),
        ({"output_type": object()}, "gives no JSON schema"),
        ({"output_type": int | threading.Thread}, "gives no JSON schema"),
    ],
)
def test_fallbacks_and_output_types_are_checked(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Agent("support", "m:x", **fields)


def test_an_agent_without_fallbacks_and_output_type_keeps_its_ref() -> None:
    """Turns that were begun before there were any stay pinned to it."""
    plain = AgentSnapshot("support", "m:x", "Answer.")
    assert Agent("support", "m:x", instructions="Answer.").snapshot().ref() == plain.ref()
    assert not {"fallbacks", "output_schema"} & to_json(AgentSnapshot, plain).keys()
