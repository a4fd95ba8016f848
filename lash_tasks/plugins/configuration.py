"""What plugins say to a change of a session's configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from lash_tasks.plugins.plugin import Plugin

log = logging.getLogger(__name__)
T = TypeVar("T")


def mutated_config(plugins: Sequence[Plugin], previous: T, proposed: T) -> T:
    """`proposed` after all plugins, in their order, have changed it. One that fails is logged and passed over."""
    for plugin in plugins:
        try:
            proposed = plugin.mutate_config(previous, proposed)
        except Exception:
            log.exception("a plugin failed to change a configuration", extra={"plugin": plugin.id})
    return proposed


def announce_config(plugins: Sequence[Plugin], previous: T, current: T) -> None:
    """Tell the plugins, once the change is committed. Nothing is said where nothing has changed."""
    if current == previous:
        return
    for plugin in plugins:
        try:
            plugin.config_changed(previous, current)
        except Exception:
            log.exception("a plugin failed at a changed configuration", extra={"plugin": plugin.id})
