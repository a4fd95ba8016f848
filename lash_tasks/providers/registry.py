"""The providers of one application, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import random  # noqa: TID251 this is where it is injected

import httpx
from pydantic import SecretStr

from lash_tasks.clock import Clock
from lash_tasks.domain.models import Limits
from lash_tasks.errors import ConfigurationError
from lash_tasks.ports import Provider, ProviderFailure
from lash_tasks.providers.anthropic import Messages
from lash_tasks.providers.api_keys import KeySource
from lash_tasks.providers.endpoint import Dialect, HttpProvider
from lash_tasks.providers.http import HttpClients
from lash_tasks.providers.named import Anthropic, Endpoint, NamedProvider, OpenAI
from lash_tasks.providers.openai import ChatCompletions
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.providers.scripted import ScriptedProvider
from lash_tasks.providers.urls import checked_base_url
from lash_tasks.settings import Settings

SHIPPED: Mapping[str, Callable[[], NamedProvider]] = {
    "anthropic": Anthropic,
    "openai": OpenAI,
    "scripted": ScriptedProvider,
}
"""The providers that every application has."""
FLEET_RETRIES = RetryPolicy(jitter_seconds=1.0)
"""The default waits, spread out so that the threads of a fleet do not come back all at once."""


class ProviderRegistry:
    """Providers by name; owns them."""

    def __init__(self, providers: Mapping[str, Provider], limits: Mapping[str, Limits] | None = None) -> None:
        self._providers = dict(providers)
        self._limits = dict(limits or {})

    def get(self, name: str) -> Provider:
        """The provider `name`; ProviderFailure `llm_provider` names those there are."""
        try:
            return self._providers[name]
        except KeyError:
            known = ", ".join(sorted(self._providers)) or "none"
            raise ProviderFailure(
                f"there is no provider {name!r}; known providers: {known}", code="llm_provider", kind="unsupported"
            ) from None

    def limits(self, name: str) -> Limits | None:
        """What all workers together may ask of `name`; None if it has no limits, or if there is no such provider."""
        return self._limits.get(name)

    def close(self) -> None:
        """Close every provider. Calls in flight fail."""
        for provider in self._providers.values():
            provider.close()


def open_providers(
    settings: Settings, clock: Clock, more: Mapping[str, NamedProvider] | None = None
) -> ProviderRegistry:
    """The shipped providers, and `more`, which come before them.

    A missing key is reported by the call that needs it, not here.
    """
    named = {name: make() for name, make in SHIPPED.items()}
    named.update(more or {})
    opening = _Opening(settings, clock)
    running = {name: opening.open(name, one) if isinstance(one, Endpoint) else one for name, one in named.items()}
    limits = {name: one.limits for name, one in named.items() if isinstance(one, Endpoint) and one.limits is not None}
    return ProviderRegistry(running, limits)


class _Opening:
    """Makes running providers of the values that an application gave."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._make_ssl_context = cache(httpx.create_ssl_context)

    def open(self, name: str, endpoint: Endpoint) -> HttpProvider:
        vendor = _vendor(endpoint, self._settings)
        if endpoint.base_url is None:
            url = checked_base_url(vendor.base_url, vendor.url_variable, vendor.key_variable)
        else:
            url = checked_base_url(endpoint.base_url, f"the base_url of provider {name!r}", "api_key")
        required = url.host == vendor.dialect.vendor_host
        if endpoint.base_url is None and endpoint.api_key is None:
            key = KeySource(vendor.key, name=vendor.key_variable, required=required)
        else:
            own = SecretStr(endpoint.api_key) if isinstance(endpoint.api_key, str) else endpoint.api_key
            key = KeySource(own, name=f"the api_key of provider {name!r}", required=required)
        return HttpProvider(
            name,
            vendor.dialect,
            base_url=url,
            key=key,
            clients=HttpClients(self._clock, make_ssl_context=self._make_ssl_context),
            clock=self._clock,
            random=random,
            policy=FLEET_RETRIES,
        )


@dataclass(frozen=True, slots=True)
class _Vendor:
    """A dialect, and what the environment says about the servers of the vendor that it is from."""

    dialect: Dialect
    base_url: str
    url_variable: str
    key: SecretStr | None
    key_variable: str


def _vendor(endpoint: Endpoint, settings: Settings) -> _Vendor:
    match endpoint:
        case OpenAI():
            return _Vendor(
                ChatCompletions(),
                settings.openai_base_url,
                "OPENAI_BASE_URL",
                settings.openai_api_key,
                "OPENAI_API_KEY",
            )
        case Anthropic():
            return _Vendor(
                Messages(),
                settings.anthropic_base_url,
                "ANTHROPIC_BASE_URL",
                settings.anthropic_api_key,
                "ANTHROPIC_API_KEY",
            )
        case _:
            raise ConfigurationError(f"{type(endpoint).__name__}: use OpenAI(...) or Anthropic(...)")
