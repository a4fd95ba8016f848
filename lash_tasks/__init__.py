"""Durable LLM-agent sessions for teams that already run Celery, Redis and Postgres.

The public names are imported when they are first used, so that `import lash_tasks` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lash_tasks.app import Lash as Lash
    from lash_tasks.client import Client as Client
    from lash_tasks.client import Receipt as Receipt
    from lash_tasks.domain.hooks import AbortTurn as AbortTurn
    from lash_tasks.domain.hooks import EmitEvent as EmitEvent
    from lash_tasks.domain.hooks import EnqueueMessages as EnqueueMessages
    from lash_tasks.domain.hooks import PluginMessage as PluginMessage
    from lash_tasks.domain.hooks import TurnSummary as TurnSummary
    from lash_tasks.domain.inputs import ImageRefItem as ImageRefItem
    from lash_tasks.domain.inputs import TextItem as TextItem
    from lash_tasks.domain.inputs import TurnInput as TurnInput
    from lash_tasks.domain.models import Limits as Limits
    from lash_tasks.domain.models import ModelOptions as ModelOptions
    from lash_tasks.domain.turns import AssembledTurn as AssembledTurn
    from lash_tasks.domain.turns import TurnContext as TurnContext
    from lash_tasks.errors import ErrorCode as ErrorCode
    from lash_tasks.errors import LashError as LashError
    from lash_tasks.machine.prepared import PreparedContext as PreparedContext
    from lash_tasks.machine.requests import ModelMessage as ModelMessage
    from lash_tasks.plugins.plugin import HookContext as HookContext
    from lash_tasks.plugins.plugin import Plugin as Plugin
    from lash_tasks.providers.named import Anthropic as Anthropic
    from lash_tasks.providers.named import OpenAI as OpenAI
    from lash_tasks.providers.named import env as env
    from lash_tasks.settings import Settings as Settings
    from lash_tasks.stores.sql.schema import include_object as include_object
    from lash_tasks.tools.agents import Agent as Agent
    from lash_tasks.tools.compaction import CompactionContext as CompactionContext
    from lash_tasks.tools.context import ToolContext as ToolContext
    from lash_tasks.tools.control import SwitchFrame as SwitchFrame
    from lash_tasks.tools.definition import tool as tool

_HOMES = {
    "AbortTurn": "lash_tasks.domain.hooks",
    "Agent": "lash_tasks.tools.agents",
    "Anthropic": "lash_tasks.providers.named",
    "AssembledTurn": "lash_tasks.domain.turns",
    "Client": "lash_tasks.client",
    "CompactionContext": "lash_tasks.tools.compaction",
    "EmitEvent": "lash_tasks.domain.hooks",
    "EnqueueMessages": "lash_tasks.domain.hooks",
    "ErrorCode": "lash_tasks.errors",
    "HookContext": "lash_tasks.plugins.plugin",
    "ImageRefItem": "lash_tasks.domain.inputs",
    "Lash": "lash_tasks.app",
    "LashError": "lash_tasks.errors",
    "Limits": "lash_tasks.domain.models",
    "ModelMessage": "lash_tasks.machine.requests",
    "ModelOptions": "lash_tasks.domain.models",
    "OpenAI": "lash_tasks.providers.named",
    "Plugin": "lash_tasks.plugins.plugin",
    "PluginMessage": "lash_tasks.domain.hooks",
    "PreparedContext": "lash_tasks.machine.prepared",
    "Receipt": "lash_tasks.client",
    "Settings": "lash_tasks.settings",
    "SwitchFrame": "lash_tasks.tools.control",
    "TextItem": "lash_tasks.domain.inputs",
    "ToolContext": "lash_tasks.tools.context",
    "TurnContext": "lash_tasks.domain.turns",
    "TurnInput": "lash_tasks.domain.inputs",
    "TurnSummary": "lash_tasks.domain.hooks",
    "env": "lash_tasks.providers.named",
    "include_object": "lash_tasks.stores.sql.schema",
    "tool": "lash_tasks.tools.definition",
}

__all__ = [
    "AbortTurn",
    "Agent",
    "Anthropic",
    "AssembledTurn",
    "Client",
    "CompactionContext",
    "EmitEvent",
    "EnqueueMessages",
    "ErrorCode",
    "HookContext",
    "ImageRefItem",
    "Lash",
    "LashError",
    "Limits",
    "ModelMessage",
    "ModelOptions",
    "OpenAI",
    "Plugin",
    "PluginMessage",
    "PreparedContext",
    "Receipt",
    "Settings",
    "SwitchFrame",
    "TextItem",
    "ToolContext",
    "TurnContext",
    "TurnInput",
    "TurnSummary",
    "env",
    "include_object",
    "tool",
]


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
