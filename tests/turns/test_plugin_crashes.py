"""A worker may die at every point of a turn with plugins: what was recorded of them is not asked again."""

from __future__ import annotations

from collections import Counter

import pytest

from lash_tasks import tool
from lash_tasks.domain.hooks import EnqueueMessages, PluginMessage
from lash_tasks.domain.plugins import Hook
from lash_tasks.plugins.plugin import Directives, HookContext
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import tables
from tests.turns.models import Model, calls, says, script
from tests.turns.plugins import Calls, plugin
from tests.turns.stage import DieAt, Stage, agent, emptied

NEVER_PASSED = {CrashPoint.AFTER_BEGUN, CrashPoint.AFTER_CHECKPOINT}


class Run:
    """One turn with two plugins in every phase and a death somewhere, and all that can be seen of it."""

    def __init__(self, settings: Settings, die_at: DieAt) -> None:
        @tool
        def look() -> str:
            """Look."""
            return "seen"

        seen = Calls()

        def speaks(ctx: HookContext) -> Directives:
            ctx.memory = (ctx.memory or 0) + 1
            said = EnqueueMessages((PluginMessage(f"{ctx.memory}"),), transient=ctx.memory % 2 == 0)
            return None if ctx.checkpoint == "before_completion" else said

        hooks = (Hook.PREPARE_CONTEXT, Hook.BEFORE_TURN, Hook.AT_CHECKPOINT, Hook.AFTER_TURN)
        plugins = [plugin(dict.fromkeys(hooks, speaks), seen, id_=name) for name in ("a", "b")]
        self.model = Model(script({"2": [calls(("look", "")), says("looked")], "3": [says("looked")]}))
        with Stage(settings=emptied(settings), agents=[agent(look, plugins=plugins)], model=self.model) as stage:
            stage.send("go")
            stage.run_all(die_at)
            self.passed = die_at.passed
            self.hooks = Counter(seen.hooks)
            self.transcript = stage.transcript()
            (turn,) = stage.results()
            self.result = (turn.outcome, turn.assistant_output, turn.errors, turn.token_usage)
            self.states = {(row["name"], row["generation"], row["ref"]) for row in stage.rows(tables.states)}
            self.rows = stage.row_counts()


@pytest.mark.timeout(300)
def test_a_death_anywhere_changes_nothing_and_no_recorded_hook_is_called_again(settings: Settings) -> None:
    whole = Run(settings, DieAt())
    assert set(CrashPoint) - set(whole.passed) == NEVER_PASSED
    assert len(whole.states) == 2
    for point, passings in whole.passed.items():
        for count in range(1, passings + 1):
            died = Run(settings, DieAt(point, count))
            where = f"{point} passing {count}"
            assert died.transcript == whole.transcript, where
            assert died.result == whole.result, where
            assert died.states == whole.states, where
            assert died.rows == whole.rows, where
            again = died.hooks - whole.hooks
            if point is CrashPoint.AFTER_PERFORM:  # done and not recorded: this phase alone is asked again
                assert len({hook for _, hook in again}) <= 1, where
                assert set(again.values()) <= {1}, where
            else:
                assert not again, where
            missed = whole.hooks - died.hooks
            assert {hook for _, hook in missed} <= {Hook.TURN_PERSISTED}, where
