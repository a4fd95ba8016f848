"""The calls of a round run side by side, are recorded one by one, and survive a death one by one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lash_tasks import ToolContext, tool
from lash_tasks.domain.journal import EffectState
from lash_tasks.domain.turns import AssembledTurn
from lash_tasks.errors import ErrorCode
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.stores.sql import tables
from tests.services import wait_until
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import Death, Stage, agent

THREE = {"go": [calls(("look", '{"at": "a"}'), ("look", '{"at": "b"}'), ("look", '{"at": "c"}')), says("done")]}


def tool_rows(stage: Stage) -> list[tuple[str, bool]]:
    """Call id and whether it is done, of every tool call in the journal."""
    rows = [row for row in stage.rows(tables.effects) if ":child:" in row["replay_key"]]
    return sorted((row["replay_key"].split(":")[-3], row["state"] == EffectState.DONE) for row in rows)


def codes(turn: AssembledTurn) -> list[str | None]:
    return [None if call.outcome.failure is None else call.outcome.failure.code for call in turn.tool_calls]


def test_the_calls_of_a_round_overlap(stage: Stage) -> None:
    together = threading.Barrier(3)

    @tool
    def look(at: str) -> str:
        """Look."""
        together.wait(20)
        return f"saw {at}"

    stage.agents, stage.model = [agent(look)], Model(script(THREE))
    turn = stage.answer("go")
    assert [call.outcome.value for call in turn.tool_calls] == ["saw a", "saw b", "saw c"]


def test_each_call_is_recorded_as_it_ends_and_waits_for_no_other(stage: Stage) -> None:
    @tool
    def look(at: str) -> str:
        """Look."""
        if at == "c":
            wait_until(lambda: tool_rows(stage) == [("call_0", True), ("call_1", True)], 20, "two recorded calls")
        return f"saw {at}"

    stage.agents, stage.model = [agent(look)], Model(script(THREE))
    turn = stage.answer("go")
    assert codes(turn) == [None, None, None]
    assert len(tool_rows(stage)) == 3


def test_of_three_calls_the_one_recorded_before_a_death_is_not_made_again(stage: Stage) -> None:
    runs: Counter[str] = Counter()
    keys: set[tuple[str, str]] = set()
    death = Death(CrashPoint.AFTER_RECORD, when=lambda: runs.total() == 3)
    others = threading.Barrier(2)

    @tool
    def look(at: str, ctx: ToolContext) -> str:
        """Look."""
        runs[at] += 1
        keys.add((at, ctx.idempotency_key))
        if at == "a":
            wait_until(lambda: runs.total() >= 3, 20, "the others to have begun")
        elif runs[at] == 1:
            assert death.died.wait(20)
            others.wait(20)
        return f"saw {at}, run {runs[at]}"

    stage.agents, stage.model = [agent(look)], Model(script(THREE))
    stage.send("go")
    assert stage.run(death) is None
    assert tool_rows(stage) == [("call_0", True)]
    stage.run_all()
    assert runs == {"a": 1, "b": 2, "c": 2}
    assert len(keys) == 3
    assert [call.outcome.value for call in stage.last().tool_calls] == ["saw a, run 1", "saw b, run 2", "saw c, run 2"]
    assert isinstance(stage.model, Model)
    assert set(stage.model.asked.values()) == {1}
    stage.assert_usable()


@pytest.mark.raises_code("tool_attempt_interrupted")
@pytest.mark.parametrize(
    ("point", "runs_before"), [(CrashPoint.AFTER_BEGUN, 0), (CrashPoint.AFTER_PERFORM, 1)], ids=["begun", "done"]
)
def test_a_never_tool_that_began_and_has_no_outcome_is_told_to_be_unknown(
    stage: Stage, point: CrashPoint, runs_before: int
) -> None:
    charged: list[str] = []

    @tool(on_crash="never")
    def charge(cents: int, ctx: ToolContext) -> str:
        """Charge."""
        charged.append(ctx.idempotency_key)
        return f"charged {cents}"

    stage.agents = [agent(charge)]
    stage.model = Model(script({"go": [calls(("charge", '{"cents": 5}')), says("done")]}))
    stage.send("go")
    dying = Death(point, when=lambda: point is CrashPoint.AFTER_BEGUN or charged)
    assert stage.run(dying) is None
    assert tool_rows(stage) == [("call_0", False)]
    # Whoever takes over dies as well, right after having said so.
    assert stage.run(Death(CrashPoint.AFTER_RECORD)) is None
    assert tool_rows(stage) == [("call_0", True)]
    stage.run_all()
    turn = stage.last()
    assert (turn.text, codes(turn)) == ("done", [ErrorCode.TOOL_ATTEMPT_INTERRUPTED])
    assert len(charged) == runs_before
    assert isinstance(stage.model, Model)
    assert "do not repeat the call" in str(stage.model.requests[-1].messages[-1])
    stage.assert_usable()


def test_a_never_tool_whose_outcome_is_recorded_keeps_it_through_a_death(stage: Stage) -> None:
    charged: list[int] = []

    @tool(on_crash="never")
    def charge(cents: int) -> str:
        """Charge."""
        charged.append(cents)
        return f"charged {cents}"

    stage.agents = [agent(charge)]
    stage.model = Model(script({"go": [calls(("charge", '{"cents": 5}')), says("done")]}))
    stage.send("go")
    assert stage.run(Death(CrashPoint.AFTER_RECORD, when=lambda: charged)) is None
    stage.run_all()
    assert codes(stage.last()) == [None]
    assert charged == [5]


def test_a_round_of_both_kinds_repeats_only_what_may_be_repeated(stage: Stage) -> None:
    runs: Counter[str] = Counter()
    death = Death(CrashPoint.AFTER_PERFORM, when=lambda: runs.total() == 2)

    @tool(on_crash="never")
    def charge() -> str:
        """Charge."""
        runs["charge"] += 1
        wait_until(lambda: runs.total() >= 2, 20, "the other call")
        return "charged"

    @tool
    def look() -> str:
        """Look."""
        runs["look"] += 1
        wait_until(lambda: runs.total() >= 2, 20, "the other call")
        return "seen"

    stage.agents = [agent(charge, look)]
    stage.model = Model(script({"go": [calls(("charge", ""), ("look", "")), says("done")]}))
    stage.send("go")
    assert stage.run(death) is None
    stage.run_all()
    assert runs == {"charge": 1, "look": 2}
    assert codes(stage.last()) == [ErrorCode.TOOL_ATTEMPT_INTERRUPTED, None]


@pytest.mark.raises_code("tool_timeout", "tool_failed")
def test_exceptions_and_timeouts_of_tools_are_results(stage: Stage) -> None:
    released = threading.Event()

    @tool
    def burst() -> str:
        """Fail."""
        raise ValueError("the pipe burst")

    @tool(timeout=0.05)
    def sleep() -> str:
        """Take long."""
        released.wait(20)
        return "rested"

    @tool
    async def late() -> str:
        """Fail on the loop."""
        raise KeyError("late")

    stage.agents = [agent(burst, sleep, late)]
    stage.model = Model(script({"go": [calls(("burst", ""), ("sleep", ""), ("late", "")), says("done")]}))
    try:
        turn = stage.answer("go")
    finally:
        released.set()
    assert turn.ok
    assert codes(turn) == [ErrorCode.TOOL_FAILED, ErrorCode.TOOL_TIMEOUT, ErrorCode.TOOL_FAILED]
    failure = turn.tool_calls[0].outcome.failure
    assert failure is not None
    assert failure.message == "ValueError: the pipe burst"
    stage.assert_usable()


def test_context_and_key_are_the_same_for_every_attempt_and_deps_are_entered_anew(stage: Stage) -> None:
    attempts: list[tuple[object, object, str]] = []
    entered: list[int] = []

    @contextmanager
    def deps() -> Iterator[str]:
        entered.append(1)
        yield f"connection {len(entered)}"
        entered.append(-1)

    @tool
    def look(ctx: ToolContext) -> str:
        """Look."""
        attempts.append((ctx.context, ctx.deps, ctx.idempotency_key))
        return "seen"

    stage.agents, stage.deps = [agent(look)], deps
    stage.model = Model(script({"go": [calls(("look", "")), calls(("look", "")), says("done")]}))
    stage.send("go", context={"user_id": 42})
    assert stage.run(Death(CrashPoint.AFTER_PERFORM, when=lambda: attempts)) is None
    stage.run_all()
    assert [context for context, _, _ in attempts] == [{"user_id": 42}] * 3
    assert [value for _, value, _ in attempts] == ["connection 1", "connection 3", "connection 5"]
    assert entered == [1, -1] * 3
    first, again, second_call = (key for _, _, key in attempts)
    assert first == again != second_call
    assert isinstance(stage.model, Model)
    assert "user_id" not in str(stage.model.requests)
