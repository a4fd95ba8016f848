"""Which agents an application serves: given as objects, named by import strings, or found in a Django project."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable, Iterator, Sequence

from lash_tasks import django
from lash_tasks.errors import ConfigurationError
from lash_tasks.tools.agents import Agent


class Roster:
    """The agents by name. What is given as an object is checked at once, everything else when `agents` is first asked.

    Every mistake is a ConfigurationError that names the agent or the import string.
    """

    def __init__(self, given: Sequence[Agent | str]) -> None:
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(f"agents: must be a list of agents and import strings, not {given!r}")
        self._given = tuple(given)
        self._discover = False
        self._lock = threading.RLock()
        self._agents: dict[str, Agent] | None = None
        for entry in self._given:
            _check(entry)
        _by_name((agent, "agents=") for agent in self._given if isinstance(agent, Agent))

    def discover(self) -> None:
        """Look into the installed Django apps too."""
        with self._lock:
            self._discover, self._agents = True, None

    def agents(self) -> dict[str, Agent]:
        """The agents by name, after importing what has to be."""
        with self._lock:
            if self._agents is None:
                self._agents = _by_name(self._found())
            return self._agents

    def _found(self) -> Iterator[tuple[Agent, str]]:
        for entry in self._given:
            yield (entry, "agents=") if isinstance(entry, Agent) else (_load(entry), repr(entry))
        if self._discover:
            for module in django.agents_modules():
                for value in vars(module).values():
                    if isinstance(value, Agent):
                        yield value, module.__name__


def _check(entry: object) -> None:
    if isinstance(entry, Agent):
        return
    if not isinstance(entry, str):
        raise ConfigurationError(f"agents: {entry!r} is neither an Agent nor an import string 'module:attribute'")
    module, colon, attribute = entry.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])):
        raise ConfigurationError(f"agents: {entry!r} must be an import string such as 'shop.agents:support'")


def _load(string: str) -> Agent:
    """The agent that an import string names. Whatever its module raises is chained below."""
    module_name, _, attributes = string.partition(":")
    try:
        target: object = importlib.import_module(module_name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"agents: {string!r} cannot be imported ({problem})") from error
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            raise ConfigurationError(f"agents: {string!r} names nothing: {module_name} has no {attributes!r}")
        target = getattr(target, attribute)
    if not isinstance(target, Agent):
        raise ConfigurationError(f"agents: {string!r} names a {type(target).__name__}, which must be an Agent")
    return target


def _by_name(found: Iterator[tuple[Agent, str]]) -> dict[str, Agent]:
    """One agent may be found several times, but no two may share a name."""
    agents: dict[str, tuple[Agent, str]] = {}
    for agent, place in found:
        known, where = agents.setdefault(agent.name, (agent, place))
        if known is not agent:
            places = f" (in {where} and in {place})" if (where, place) != ("agents=", "agents=") else ""
            raise ConfigurationError(f"two agents are named {agent.name!r}{places}; give one another name")
    return {name: agent for name, (agent, _) in agents.items()}
