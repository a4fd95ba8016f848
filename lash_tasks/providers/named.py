"""Model endpoints as an application names them: values, without sockets and without a look at the environment."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lash_tasks.domain.models import Limits
from lash_tasks.domain.turns import TurnContext
from lash_tasks.errors import ConfigurationError
from lash_tasks.ports import Provider
from lash_tasks.providers.urls import checked_base_url

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class EnvironmentVariable:
    """A value that is read from the environment of the worker when it is needed."""

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _VARIABLE.fullmatch(self.name):
            raise ConfigurationError(f"env: {self.name!r} is no name of an environment variable")


def env(name: str) -> EnvironmentVariable:
    """The environment variable `name`, read at each model call."""
    return EnvironmentVariable(name)


ApiKey = str | EnvironmentVariable | Callable[[TurnContext], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model server, of either vendor's kind. Checked when it is made: ConfigurationError names the field.

    `api_key` is the key, `env("NAME")`, or a function of the turn that is called for each model call and whose answer
    is used once and kept nowhere; None sends no key. Without `base_url` it is the vendor's own server, as the
    environment names it, and the vendor's variable is the key where none is given.
    """

    base_url: str | None = None
    api_key: ApiKey | None = field(default=None, repr=False)
    limits: Limits | None = None

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if self.base_url is not None:
            checked_base_url(self.base_url, f"{kind}: base_url", f"{kind}: api_key")
        if not (self.api_key is None or isinstance(self.api_key, str | EnvironmentVariable) or callable(self.api_key)):
            raise ConfigurationError(f"{kind}: api_key must be a string, env(...), or a function of the turn")
        if inspect.iscoroutinefunction(self.api_key):
            raise ConfigurationError(f"{kind}: api_key must be a plain function, not an async one")
        if not (self.limits is None or isinstance(self.limits, Limits)):
            raise ConfigurationError(f"{kind}: limits must be Limits(...), not {self.limits!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAI(Endpoint):
    """A server that speaks OpenAI's Chat Completions: `base_url` is what stands before `/chat/completions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anthropic(Endpoint):
    """A server that speaks Anthropic's Messages: `base_url` is what stands before `/v1/messages`."""


NamedProvider = Provider | Endpoint


def checked_providers(providers: Mapping[str, NamedProvider]) -> dict[str, NamedProvider]:
    """The providers of an application; ConfigurationError for a name or a value that cannot be one."""
    if not isinstance(providers, Mapping):
        raise ConfigurationError(f"providers: must be a mapping from names to model servers, not {providers!r}")
    for name, provider in providers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"providers: {name!r} must be a plain name of letters, digits, '-', '_' and '.', at most 64 of them"
            )
        answers = callable(getattr(provider, "complete", None)) and callable(getattr(provider, "close", None))
        if isinstance(provider, type) or not (isinstance(provider, OpenAI | Anthropic) or answers):
            raise ConfigurationError(
                f"providers: {name!r} must be OpenAI(...), Anthropic(...) or an object with complete and close"
            )
    return dict(providers)
