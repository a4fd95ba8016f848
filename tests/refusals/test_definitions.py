"""Applications that cannot be right: one sentence names the argument, where the application is defined."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import Agent, Client, Lash
from lash_tasks.errors import ConfigurationError

SUPPORT = Agent("support", "scripted:echo")


@pytest.mark.parametrize(
    ("argument", "value", "problem"),
    [
        ("agents", SUPPORT, r"agents: must be a list of agents and import strings, not Agent\("),
        ("agents", "shop.agents:support", "agents: must be a list of agents and import strings, not 'shop"),
        ("agents", None, "agents: must be a list of agents and import strings, not None"),
        ("providers", 5, "providers: must be a mapping from names to model servers, not 5"),
        ("providers", [], "providers: must be a mapping"),
        ("deps", 5, "deps= must be a function that opens a context manager, not 5"),
        ("probe", 5, "probe= must be an object with begin and end, not 5"),
        ("settings", 5, r"settings= must be Settings\(\.\.\.\), not int"),
    ],
)
def test_an_application_is_refused_by_the_argument_that_is_wrong(argument: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{problem}"):
        Lash(**{"agents": [SUPPORT], argument: value})


@pytest.mark.parametrize("odd", [5, 0, {}])
def test_a_client_is_refused_by_settings_that_are_none(odd: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^settings= must be Settings\(\.\.\.\), not "):
        Client(odd)
