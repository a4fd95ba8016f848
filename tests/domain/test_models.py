"""Options of a model call and limits of a provider are checked when they are made."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lash_tasks import Agent, Limits, ModelOptions
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import decode, encode, to_json
from lash_tasks.errors import ConfigurationError

ALL = ModelOptions(
    temperature=1, max_output_tokens=100, reasoning_effort="low", timeout=timedelta(seconds=90), extra={"seed": 7}
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.5),
        ("temperature", "0.2"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("max_output_tokens", 0),
        ("max_output_tokens", 1.5),
        ("max_output_tokens", True),
        ("reasoning_effort", "huge"),
        ("reasoning_effort", 3),
        ("timeout", 0),
        ("timeout", timedelta(0)),
        ("timeout", float("inf")),
        ("timeout", 1e300),
        ("timeout", "5"),
        ("extra", [1]),
        ("extra", {"": 1}),
        ("extra", {1: 1}),
        ("extra", {"seed": object()}),
        ("extra", {"seed": float("nan")}),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"ModelOptions: {field} must"):
        ModelOptions(**{field: value})


@pytest.mark.parametrize("field", ["model", "messages", "stream", "stream_options", "system", "tools"])
def test_extra_may_not_replace_what_is_asked(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"extra must not hold '{field}'"):
        ModelOptions(extra={"seed": 1, field: None})


@pytest.mark.parametrize("field", ["concurrency", "requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_a_wrong_limit_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"Limits: {field} must"):
        Limits(**{field: value})


def test_a_timeout_is_seconds_or_a_timedelta() -> None:
    assert (ALL.timeout_seconds, ModelOptions(timeout=5).timeout_seconds, ModelOptions().timeout_seconds) == (
        90,
        5,
        None,
    )


def test_a_snapshot_keeps_the_options_it_was_made_with() -> None:
    extra: dict[str, Any] = {"stop": ["END"]}
    snapshot = Agent("a", "openai:m", options=ModelOptions(extra=extra)).snapshot()
    ref = snapshot.ref()
    extra["stop"].append("more")
    assert snapshot.ref() == ref
    kept = Agent("a", "openai:m", options=ALL).snapshot()
    assert decode(AgentSnapshot, encode(AgentSnapshot, kept)) == kept
    assert decode(AgentSnapshot, encode(AgentSnapshot, kept)).ref() == kept.ref() != ref


def test_default_options_leave_no_trace_in_a_snapshot() -> None:
    """Snapshots that were stored before there were options keep their refs."""
    snapshot = Agent("a", "openai:m", options=ModelOptions(extra={})).snapshot()
    assert to_json(AgentSnapshot, snapshot) == {
        "name": "a",
        "model": "openai:m",
        "instructions": "",
        "tools": [],
        "max_iterations": 20,
        "max_turn_seconds": 600,
    }


def test_options_that_are_no_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="agent 'a': options must be ModelOptions"):
        Agent("a", "openai:m", options={"temperature": 0})  # type: ignore[arg-type]
