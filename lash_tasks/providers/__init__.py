"""Model endpoints behind the `Provider` port: `openai` (any Chat Completions server), `anthropic`, `scripted`."""

from lash_tasks.providers.registry import ProviderRegistry, open_providers

__all__ = ["ProviderRegistry", "open_providers"]
