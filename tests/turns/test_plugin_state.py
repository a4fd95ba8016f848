"""What plugins remember of a session: it lands with the turn, is carried where it is unchanged, and is read by all."""

from __future__ import annotations

import pytest

from lash_tasks import tool
from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.hooks import AbortTurn
from lash_tasks.domain.plugins import Hook
from lash_tasks.plugins.plugin import Directives, HookContext, Plugin
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.stores.sql import tables
from tests.turns.models import Model
from tests.turns.plugins import Calls, plugin
from tests.turns.stage import SESSION, DieAt, Stage, agent


class Counting(Plugin):
    """Counts the turns of a session in its memory."""

    id = "counting"

    def __init__(self) -> None:
        self.seen: list[JsonValue] = []

    def before_turn(self, ctx: HookContext) -> Directives:
        self.seen.append(ctx.memory)
        last = ctx.messages[-1].parts[-1]
        if "quiet" not in str(last):
            ctx.memory = {"turns": (ctx.memory or {"turns": 0})["turns"] + 1}
        return None


def state(stage: Stage) -> dict[str, object]:
    (row,) = stage.rows(tables.states)
    return {"generation": row["generation"], "ref": row["ref"]}


@pytest.mark.shows("C2")
def test_the_state_of_a_plugin_comes_back_with_every_worker(stage: Stage) -> None:
    @tool
    def look() -> str:
        """Look."""
        return "seen"

    counting = Counting()
    stage.agents, stage.model = [agent(look, plugins=[counting])], Model()
    for text in ("one", "two", "three"):
        stage.answer(text)  # each by a worker of its own
    assert [[spec.name for spec in request.tools] for request in stage.model.requests] == [["look"]] * 3
    assert counting.seen == [None, {"turns": 1}, {"turns": 2}]
    assert state(stage)["generation"] == 3
    with stage.reading() as stores:
        (stored,) = stores.sessions.states(SESSION)
        assert (stored.name, stored.generation) == ("plugin:counting", 3)
        assert b'{"turns":3}' in stored.body
        total = stores.sessions.usage(SESSION)
    assert sum(one.usage.input_tokens for one in total) > 0


@pytest.mark.shows("C3")
def test_a_turn_that_changes_nothing_carries_the_state(stage: Stage) -> None:
    counting = Counting()
    stage.agents = [agent(plugins=[counting])]
    stage.answer("one")
    before, blobs = state(stage), len(stage.rows(tables.blobs))
    stage.answer("quiet")
    assert state(stage) == before
    assert len(stage.rows(tables.blobs)) == blobs
    stage.answer("quiet")
    assert counting.seen == [None, {"turns": 1}, {"turns": 1}]


@pytest.mark.shows("C4")
@pytest.mark.parametrize("fails", ["raises", "no JSON"])
def test_a_state_that_cannot_be_taken_leaves_the_one_before(stage: Stage, fails: str) -> None:
    class Failing(Counting):
        def snapshot(self, memory: JsonValue) -> JsonValue:
            if memory == {"turns": 2}:
                if fails == "raises":
                    raise ValueError("no")
                return {"turns": object()}
            return memory

    failing = Failing()
    stage.agents = [agent(plugins=[failing])]
    assert stage.answer("one").ok
    before = state(stage)
    assert stage.answer("two").ok
    assert state(stage) == before
    assert stage.answer("three").ok
    assert failing.seen == [None, {"turns": 1}, {"turns": 1}]


def test_hooks_of_one_turn_see_what_the_ones_before_have_left(stage: Stage) -> None:
    seen: list[JsonValue] = []

    def adds(ctx: HookContext) -> Directives:
        seen.append(list(ctx.memory or []))
        ctx.memory = [*seen[-1], len(seen)]
        return None

    hooks = (Hook.PREPARE_CONTEXT, Hook.BEFORE_TURN, Hook.AT_CHECKPOINT, Hook.AFTER_TURN, Hook.TURN_PERSISTED)
    stage.agents = [agent(plugins=[plugin(dict.fromkeys(hooks, adds))])]
    stage.answer("Hello")
    assert seen == [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert state(stage)["generation"] == 1
    stage.answer("Hello")
    assert seen[5] == [1, 2, 3, 4]


def test_a_turn_that_is_aborted_keeps_what_its_plugins_remember(stage: Stage) -> None:
    def counts(ctx: HookContext) -> Directives:
        ctx.memory = (ctx.memory or 0) + 1
        return AbortTurn("no", "No.")

    calls = Calls()
    stage.agents = [agent(plugins=[plugin({Hook.BEFORE_TURN: counts}, calls)])]
    stage.answer("one")
    stage.answer("two")
    assert calls.contexts[-1].memory == 2


def test_a_death_before_the_commit_leaves_the_state_of_the_turn_before(stage: Stage) -> None:
    counting = Counting()
    stage.agents, stage.model = [agent(plugins=[counting])], Model()
    stage.answer("one")
    before = state(stage)
    stage.send("two")
    assert stage.run(DieAt(CrashPoint.BEFORE_COMMIT)) is None
    assert state(stage) == before
    stage.run_all()
    assert counting.seen == [None, {"turns": 1}]
    assert state(stage)["generation"] == 2


def test_a_state_whose_body_is_gone_fails_the_phase_that_wants_it(stage: Stage) -> None:
    stage.agents = [agent(plugins=[Counting()])]
    stage.answer("one")
    stage.execute("DELETE FROM lash_blobs")
    (issue,) = stage.answer("two").errors
    assert (issue.code, "its state cannot be read" in issue.message) == ("plugin_prepare_turn", True)


def test_a_reset_is_the_remedy_for_a_state_whose_body_is_gone(stage: Stage) -> None:
    stage.agents = [agent(plugins=[Counting()])]
    stage.answer("one")
    stage.execute("DELETE FROM lash_blobs")
    reset = {"session_id": SESSION, "kind": "reset_session", "idempotency_key": "k"}
    with stage.ingress() as ingress:
        ingress.command(CommandRequest.parse(reset))
    stage.run_all()
    assert stage.rows(tables.states) == []
    assert stage.answer("two").ok


def test_restore_makes_the_memory_that_snapshot_writes(stage: Stage) -> None:
    class Sets(Plugin):
        id = "sets"

        def restore(self, state: JsonValue) -> JsonValue:
            return set(state or [])

        def snapshot(self, memory: JsonValue) -> JsonValue:
            return sorted(memory)

        def before_turn(self, ctx: HookContext) -> Directives:
            ctx.memory.add(str(ctx.turn_index))
            return None

    stage.agents = [agent(plugins=[Sets()])]
    stage.answer("one")
    stage.answer("two")
    with stage.reading() as stores:
        (stored,) = stores.sessions.states(SESSION)
    assert b'["1","2"]' in stored.body
