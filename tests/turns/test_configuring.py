"""A session's configuration is changed, and whoever watches is told so: once, and only of a change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lash_tasks.domain.activity import ActivityType
from lash_tasks.plugins.plugin import Plugin
from tests.turns.doubles import LiveRecorder
from tests.turns.stage import Stage, agent
from tests.turns.test_commands import order, stored_spec


class Overseer(Plugin):
    """Bounds what sessions may say, and notes what came of it."""

    id = "overseer"

    def __init__(self) -> None:
        self.changes: list[tuple[Any, Any]] = []

    def mutate_config(self, previous: Any, proposed: Any) -> Any:
        if "model" not in proposed:
            return "nonsense"
        return {**proposed, "max_turns": 2}

    def config_changed(self, previous: Any, current: Any) -> None:
        self.changes.append((previous, current))
        raise ValueError("nobody minds")


@pytest.mark.shows("S11")
def test_the_hook_of_a_changed_configuration_fires_once_and_never_without_a_change(stage: Stage) -> None:
    overseer = Overseer()
    stage.agents = [agent(plugins=[overseer])]
    for key, spec in (("k1", {"model": "test:other"}), ("k2", {"model": "test:other"})):
        order(stage, "configure_session", key, spec=spec)
    stage.run_all()
    [(previous, current)] = overseer.changes
    assert (previous["model"], current["model"]) == ("test:test", "test:other")
    assert current["max_turns"] == 2
    assert stored_spec(stage) == '{"max_turns":2,"model":"test:other"}'
    order(stage, "configure_session", "k3", spec={"inherit": False})
    stage.run_all()
    assert stored_spec(stage) is None
    assert len(overseer.changes) == 2


class Watch(Plugin):
    """Remembers which changes it was told of."""

    id = "watch"

    def __init__(self) -> None:
        self.changes: list[tuple[Any, Any]] = []

    def config_changed(self, previous: Any, current: Any) -> None:
        self.changes.append((previous, current))


@pytest.mark.shows("S11")
def test_a_change_is_told_to_plugins_and_followers_and_the_agents_own_model_is_none(stage: Stage) -> None:
    """A session that named the model of its agent was announced as changed, with the same policy twice."""
    watch, live = Watch(), LiveRecorder()
    stage.agents = [agent(plugins=[watch])]
    order(stage, "configure_session", "k1", spec={"model": "test:test"})
    stage.run_all(wrap=lambda stores: replace(stores, live=live))
    assert stored_spec(stage) == '{"model":"test:test"}'
    assert (watch.changes, changes(live)) == ([], [])

    order(stage, "configure_session", "k2", spec={"model": "test:other"})
    stage.run_all(wrap=lambda stores: replace(stores, live=live))
    [(previous, current)] = watch.changes
    assert (previous["model"], current["model"]) == ("test:test", "test:other")
    assert changes(live) == [{"previous": previous, "current": current}]


def changes(live: LiveRecorder) -> list[Mapping[str, Any]]:
    return [event.data for event in live.events if event.type is ActivityType.SESSION_CONFIG_CHANGED]
