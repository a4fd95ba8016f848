"""Plugins as a turn is pinned to them: which hooks they have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Hook(StrEnum):
    """The hooks of a plugin, by the names of its methods."""

    PREPARE_CONTEXT = "prepare_context"
    BEFORE_TURN = "before_turn"
    AT_CHECKPOINT = "at_checkpoint"
    AFTER_TURN = "after_turn"
    TURN_PERSISTED = "turn_persisted"
    MUTATE_CONFIG = "mutate_config"
    CONFIG_CHANGED = "config_changed"


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plugin as a turn is pinned to it."""

    id: str
    version: str
    hooks: tuple[Hook, ...]
    priority: int = 0
    """Transforms of the context run from the highest to the lowest; all other hooks in the order of the agent."""
