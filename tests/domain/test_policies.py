"""What a session says over its agent's policy: read strictly, laid over, resolved."""

from __future__ import annotations

import pytest

from lash_tasks.domain.agents import AgentSnapshot, ToolSpec
from lash_tasks.domain.codec import JsonObject, JsonValue
from lash_tasks.domain.models import ModelOptions
from lash_tasks.domain.policies import (
    NOTHING_SAID_OVER,
    UNBOUNDED,
    SessionSpec,
    overlaid,
    policy_of,
    read_spec,
    stored_spec,
)
from lash_tasks.errors import InvalidInput

AGENT = AgentSnapshot(
    name="support",
    model="openai:large",
    instructions="Answer.",
    tools=(ToolSpec("look", "Look.", {}), ToolSpec("charge", "Charge.", {})),
    max_iterations=20,
    fallbacks=("openai:small", "anthropic:large"),
    options=ModelOptions(temperature=0.5, max_output_tokens=100),
)

EVERYTHING: JsonObject = {
    "agent": "support",
    "model": "openai:other",
    "max_turns": 3,
    "instructions": {"text": "Be brief.", "mode": "append"},
    "options": {"temperature": 0.1},
    "tools": ["look"],
}


def test_a_spec_that_says_nothing_leaves_the_agent_as_it_is() -> None:
    assert overlaid(AGENT, NOTHING_SAID_OVER) == AGENT
    assert overlaid(AGENT, NOTHING_SAID_OVER).ref() == AGENT.ref()


@pytest.mark.shows("S1")
def test_a_spec_survives_being_stored() -> None:
    spec = read_spec(EVERYTHING)
    assert stored_spec(spec.stored()) == spec
    assert read_spec(spec.as_json()) == spec
    assert stored_spec(NOTHING_SAID_OVER.stored()) == NOTHING_SAID_OVER


@pytest.mark.shows("S1")
def test_names_are_trimmed() -> None:
    spec = read_spec({"model": "  openai :  gpt ", "agent": " support ", "tools": [" look ", "look"]})
    assert spec.as_json() == {"model": "openai:gpt", "agent": "support", "tools": ["look"]}


@pytest.mark.shows("S1")
@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({"provider": {"api_key": "s3cret"}}, "spec.provider", "holds a provider's configuration"),
        ({"api_key": "s3cret"}, "spec.api_key", "is not a known field"),
        ({"options": {"api_key": "s3cret"}}, "spec.options.api_key", "is not a known field"),
        ({"model": "gpt"}, "spec.model", "must be 'provider:model'"),
        ({"model": " : gpt"}, "spec.model", "must be 'provider:model'"),
        ({"max_turns": 0}, "spec.max_turns", "at least 1"),
        ({"max_turns": True}, "spec.max_turns", "at least 1"),
        ({"instructions": {"text": "x", "mode": "shout"}}, "spec.instructions.mode", "must be 'append' or 'replace'"),
        ({"instructions": " "}, "spec.instructions.text", "must not be empty"),
        ({"options": {"temperature": 9}}, "spec.options", "temperature must be"),
        ({"tools": "look"}, "spec.tools", "must be a list"),
        ({"tools": ["look", ""]}, "spec.tools[1]", "must not be empty"),
        ({"inherit": 1}, "spec.inherit", "must be true or false"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field_and_never_quoted(
    values: dict[str, JsonValue], field: str, problem: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_spec(values)
    assert refused.value.field == field
    assert problem in refused.value.problem
    assert "s3cret" not in str(refused.value)


@pytest.mark.shows("S2")
@pytest.mark.parametrize(("said", "bound"), [({}, 20), ({"max_turns": None}, None), ({"max_turns": 3}, 3)])
def test_unset_keeps_null_clears_and_a_value_sets(said: JsonObject, bound: int | None) -> None:
    spec = read_spec(said)
    assert policy_of(AGENT, spec).max_turns == bound
    assert overlaid(AGENT, spec).max_iterations == (bound or UNBOUNDED)


@pytest.mark.shows("S2")
def test_a_spec_lies_over_what_the_session_said_before() -> None:
    before = read_spec({"model": "openai:other", "max_turns": 3})
    assert read_spec({"max_turns": None}).over(before).as_json() == {"model": "openai:other", "max_turns": None}
    assert read_spec({"model": None}).over(before).as_json() == {"max_turns": 3}
    assert read_spec({"inherit": False, "tools": ["look"]}).over(before) == SessionSpec({"tools": ["look"]})


def test_everything_that_is_said_counts() -> None:
    effective = overlaid(AGENT, read_spec(EVERYTHING))
    assert effective.model == "openai:other"
    assert effective.appended_instructions == "Be brief."
    assert effective.options == ModelOptions(temperature=0.1, max_output_tokens=100)
    assert [tool.name for tool in effective.tools] == ["look"]


def test_instructions_are_replaced_or_followed() -> None:
    replaced = overlaid(AGENT, read_spec({"instructions": {"text": "Sing.", "mode": "replace"}}))
    assert (replaced.instructions, replaced.appended_instructions) == ("Sing.", None)


def test_a_model_that_is_a_fallback_is_not_asked_twice() -> None:
    assert overlaid(AGENT, read_spec({"model": "openai:small"})).models == ("openai:small", "anthropic:large")


@pytest.mark.shows("P3")
def test_the_model_of_one_turn_lies_over_the_sessions() -> None:
    spec = read_spec({"model": "openai:other"})
    assert overlaid(AGENT, spec, "anthropic:one").model == "anthropic:one"
    assert policy_of(AGENT, spec).model == "openai:other"


@pytest.mark.shows("S7")
def test_a_tool_that_the_agent_does_not_have_is_off_and_reported() -> None:
    policy = policy_of(AGENT, read_spec({"tools": ["look", "gone"]}))
    assert (policy.tools, policy.orphaned_tools) == (("look",), ("gone",))


def test_a_policy_tells_its_provider() -> None:
    assert policy_of(AGENT, NOTHING_SAID_OVER).as_json() == {
        "agent": "support",
        "model": "openai:large",
        "provider_id": "openai",
        "max_turns": 20,
        "instructions": "Answer.",
        "options": {"temperature": 0.5, "max_output_tokens": 100},
        "tools": ["look", "charge"],
        "orphaned_tools": [],
    }
