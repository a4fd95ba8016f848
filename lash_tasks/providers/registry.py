"""The providers of one application, by name."""

from __future__ import annotations

from collections.abc import Mapping
from random import random  # noqa: TID251 this is where it is injected

from lash_tasks.clock import Clock
from lash_tasks.ports import Provider, ProviderFailure
from lash_tasks.providers.http import HttpClients
from lash_tasks.providers.openai import OpenAI
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.providers.scripted import ScriptedProvider
from lash_tasks.settings import Settings

FLEET_RETRIES = RetryPolicy(jitter_seconds=1.0)
"""The default waits, spread out so that the threads of a fleet do not come back all at once."""


class ProviderRegistry:
    """Providers by name; owns them."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = dict(providers)

    def get(self, name: str) -> Provider:
        """The provider `name`; ProviderFailure `unknown_provider` names those there are."""
        try:
            return self._providers[name]
        except KeyError:
            known = ", ".join(sorted(self._providers)) or "none"
            raise ProviderFailure(
                f"there is no provider {name!r}; known providers: {known}", code="unknown_provider", kind="unsupported"
            ) from None

    def close(self) -> None:
        """Close every provider. Calls in flight fail."""
        for provider in self._providers.values():
            provider.close()


def open_providers(settings: Settings, clock: Clock, more: Mapping[str, Provider] | None = None) -> ProviderRegistry:
    """The shipped providers, and `more`, which come before them.

    A missing key is reported by the call that needs it, not here.
    """
    return ProviderRegistry(
        {
            "openai": OpenAI(
                base_url=settings.openai_base_url,
                api_key=settings.openai_api_key,
                clients=HttpClients(clock),
                clock=clock,
                random=random,
                policy=FLEET_RETRIES,
            ),
            "scripted": ScriptedProvider(),
            **(more or {}),
        }
    )
