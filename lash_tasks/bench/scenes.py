"""The scenes: each measures real workers between two runs of the control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from lash_tasks.bench import workload
from lash_tasks.bench.children import BenchFailed
from lash_tasks.bench.figures import is_valid, mean, ratios
from lash_tasks.bench.stage import Stage, summary

LATENCIES = """
SELECT t.committed_at_ms - b.enqueued_at_ms FROM lash_turns t
JOIN lash_batches b ON b.session_id = t.session_id AND b.turn_id = t.turn_id
WHERE t.committed_at_ms >= %s AND t.committed_at_ms < %s AND t.status = 'committed'"""
UNANSWERED = "SELECT count(*) FROM lash_turns WHERE status = 'committed' AND outcome <> 'finished'"


class Scene(StrEnum):
    SATURATED = "saturated"
    DELAYED = "delayed"
    IDLE = "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much a benchmark does."""

    workers: int = 2
    worker_threads: int = 100
    sessions: int = 100
    delayed_sessions: int = 200
    turns: int = 1000
    """At least as many are measured in a closed loop …"""
    seconds: float = 10.0
    """… and for at least so long …"""
    at_most_seconds: float = 40.0
    """… but no longer."""
    warm_up_turns: int = 300
    idle_turns: int = 200
    idle_warm_up: int = 30
    control_seconds: float = 5.0
    kills: int = 5

    def quick(self) -> Sizes:
        """Everything once, for a look at whether it works: its figures mean nothing."""
        return replace(
            self,
            worker_threads=16,
            sessions=8,
            delayed_sessions=16,
            turns=20,
            seconds=0.5,
            at_most_seconds=20.0,
            warm_up_turns=8,
            idle_turns=5,
            idle_warm_up=2,
            control_seconds=0.4,
            kills=1,
        )


def play(scene: Scene, stage: Stage, sizes: Sizes) -> dict[str, Any]:
    """One scene between its controls."""
    body, control = _PLAYS[scene]
    stage.progress.say(f"{scene}: control")
    before = control(stage, sizes)
    stage.progress.say(f"{scene}: workers")
    measured = body(stage, sizes)
    _check_answers(stage)
    stage.progress.say(f"{scene}: control again")
    after = control(stage, sizes)
    of_control = mean(before["figures"], after["figures"])
    result = {
        **measured,
        "controls": [before, after],
        "control": of_control,
        "ratio": ratios(measured["figures"], of_control),
    }
    return {**result, "valid": is_valid(result)}


def _check_answers(stage: Stage) -> None:
    """BenchFailed if a turn was not answered: figures of failures are none."""
    with stage.database.connected() as connection:
        row = connection.execute(UNANSWERED).fetchone()
    if row is None or row[0]:
        raise BenchFailed(f"{row[0] if row else 'some'} turns ended without an answer; no figure of them counts")


# ---------------------------------------------------------------- closed loops


def _saturated(stage: Stage, sizes: Sizes) -> dict[str, Any]:
    return _closed_loop(stage, sizes, "saturated", sizes.sessions, workload.AGENT)


def _delayed(stage: Stage, sizes: Sizes) -> dict[str, Any]:
    return _closed_loop(stage, sizes, "delayed", sizes.delayed_sessions, workload.DELAYED_AGENT)


def _saturated_control(stage: Stage, sizes: Sizes) -> dict[str, Any]:
    return stage.control(sizes.workers, max(1, sizes.sessions // sizes.workers), sizes.control_seconds)


def _delayed_control(stage: Stage, sizes: Sizes) -> dict[str, Any]:
    threads = max(1, sizes.delayed_sessions // sizes.workers)
    return stage.control(sizes.workers, threads, sizes.control_seconds, workload.DELAYED_MODEL)


def _closed_loop(stage: Stage, sizes: Sizes, name: str, sessions: int, agent: str) -> dict[str, Any]:
    names = [f"{name}-{number:04}" for number in range(sessions)]
    with (
        stage.workers(sizes.workers, sizes.worker_threads) as workers,
        stage.driver(kind="load", agent=agent, sessions=names) as driver,
    ):

        def committed() -> int:
            for worker in workers:
                worker.check()
            heard: dict[str, int] = driver.hear()
            stage.progress.show(f"{name}: {heard['turns']} turns")
            return heard["turns"]

        give_up = stage.clock.monotonic() + sizes.at_most_seconds
        while committed() < sizes.warm_up_turns:
            if stage.clock.monotonic() > give_up:
                raise BenchFailed(f"{name}: {sizes.warm_up_turns} turns took more than {sizes.at_most_seconds:g} s")
        before = stage.sample()
        while (turns := committed()) is not None:
            passed = stage.clock.monotonic() - before.usage.at
            enough = turns >= sizes.warm_up_turns + sizes.turns and passed >= sizes.seconds
            if enough or passed >= sizes.at_most_seconds:
                break
        after = stage.sample()
        driver.say("stop")
        while "polls" not in (end := driver.hear()):
            pass
    with stage.database.connected() as connection:
        window = (before.meter.at_ms, after.meter.at_ms)
        seconds = [ms / 1000 for (ms,) in connection.execute(LATENCIES, window)]
    length = (after.meter.at_ms - before.meter.at_ms) / 1000
    polls = end["polls"] / end["seconds"] * length
    return summary(before, after, seconds, length, polls)


# ---------------------------------------------------------------- one by one


def _idle(stage: Stage, sizes: Sizes) -> dict[str, Any]:
    warm_up = [f"idle-warm-{number}" for number in range(sizes.idle_warm_up)]
    job = {"agent": workload.AGENT, "sessions": ["idle"], "turns": sizes.idle_turns, "warm_up": warm_up}
    with (
        stage.workers(sizes.workers, sizes.worker_threads),
        stage.driver(kind="one_by_one", **job) as driver,
    ):
        driver.hear()
        stage.progress.say(f"idle: {sizes.idle_turns} turns, one by one")
        before = stage.sample()
        driver.say("go")
        (seconds,) = driver.hear()
        after = stage.sample()
    return summary(before, after, seconds, after.usage.at - before.usage.at)


def _idle_control(stage: Stage, sizes: Sizes) -> dict[str, Any]:
    return stage.control(1, 1, sizes.control_seconds)


_Part = Callable[[Stage, Sizes], dict[str, Any]]
_PLAYS: Mapping[Scene, tuple[_Part, _Part]] = {
    Scene.SATURATED: (_saturated, _saturated_control),
    Scene.DELAYED: (_delayed, _delayed_control),
    Scene.IDLE: (_idle, _idle_control),
}
