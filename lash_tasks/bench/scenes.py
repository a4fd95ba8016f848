"""The scenes: each measures real workers between two runs of the control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial

from lash_tasks.bench import workload
from lash_tasks.bench.children import BenchFailed
from lash_tasks.bench.figures import Figures, is_valid, latencies, mean, ratios
from lash_tasks.bench.history import TEMPLATE, give_history
from lash_tasks.bench.loops import Ask, closed_loop, one_by_one
from lash_tasks.bench.sizes import Sizes
from lash_tasks.bench.stage import Measured, Stage, summary

UNANSWERED = "SELECT count(*) FROM lash_turns WHERE status = 'committed' AND outcome <> 'finished'"


HOLDER = """
SELECT w.pid FROM lash_turns t JOIN lash_workers w ON w.id = t.holder
WHERE t.session_id = %s AND t.status = 'running'"""
IDLE_SESSIONS = 20
TAKEOVER_THREADS = 4


class Scene(StrEnum):
    SATURATED = "saturated"
    DELAYED = "delayed"
    IDLE = "idle"
    HISTORY = "history"
    WAL = "wal"
    TAKEOVER = "takeover"


def play(scene: Scene, stage: Stage, sizes: Sizes) -> Measured:
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


def _saturated(stage: Stage, sizes: Sizes) -> Measured:
    return _one_loop(stage, sizes, "saturated", sizes.sessions, workload.AGENT)


def _delayed(stage: Stage, sizes: Sizes) -> Measured:
    return _one_loop(stage, sizes, "delayed", sizes.delayed_sessions, workload.DELAYED_AGENT)


def _saturated_control(stage: Stage, sizes: Sizes) -> Measured:
    return stage.control(sizes.workers, max(1, sizes.sessions // sizes.workers), sizes.control_seconds)


def _delayed_control(stage: Stage, sizes: Sizes) -> Measured:
    threads = max(1, sizes.delayed_sessions // sizes.workers)
    return stage.control(sizes.workers, threads, sizes.control_seconds, workload.DELAYED_MODEL)


def _one_loop(stage: Stage, sizes: Sizes, name: str, sessions: int, agent: str) -> Measured:
    with stage.workers(sizes.workers, sizes.worker_threads) as workers:
        return closed_loop(stage, sizes, workers, stage.new_sessions(name, sessions), agent, sizes.turns)


def _wal(stage: Stage, sizes: Sizes) -> Measured:
    """What a turn writes, without a past and with a long one."""
    figures: Figures = {}
    loads: list[float] = []
    turns, seconds = 0, 0.0
    with stage.workers(sizes.workers, sizes.worker_threads) as workers:
        with one_by_one(stage, workload.AGENT) as ask:
            _run_template(stage, ask)
        for prior in sorted({0, max(sizes.history)}):
            sessions = _with_history(stage, "wal", sizes.wal_sessions, prior)
            found = closed_loop(stage, sizes, workers, sessions, workload.AGENT, sizes.wal_turns)
            for figure in ("wal_bytes_per_turn", "transactions_per_turn", "turns_per_s"):
                figures[f"prior_{prior}_{figure}"] = found["figures"][figure]
            figures[f"prior_{prior}_turns"] = found["turns"]
            loads.append(found["foreign_cores"])
            turns, seconds = turns + found["turns"], seconds + found["seconds"]
    return {"turns": turns, "seconds": seconds, "foreign_cores": max(loads), "figures": figures}


# ---------------------------------------------------------------- one by one


def _idle(stage: Stage, sizes: Sizes) -> Measured:
    sessions = stage.new_sessions("idle", IDLE_SESSIONS)
    with stage.workers(sizes.workers, sizes.worker_threads), one_by_one(stage, workload.AGENT) as ask:
        ask(stage.new_sessions("warm-up", sizes.idle_warm_up))
        stage.progress.say(f"idle: {sizes.idle_turns} turns, one by one")
        before = stage.sample()
        with stage.profiling("idle"):
            seconds = ask([sessions[number % len(sessions)] for number in range(sizes.idle_turns)])
            after = stage.sample()
    return summary(before, after, seconds, after.usage.at - before.usage.at)


def _idle_control(stage: Stage, sizes: Sizes) -> Measured:
    return stage.control(1, 1, sizes.control_seconds)


def _history(stage: Stage, sizes: Sizes) -> Measured:
    """One worker: the first turn of a session that it has not seen (cold), and the turns after it (warm)."""
    figures: Figures = {}
    with stage.workers(1, sizes.worker_threads), one_by_one(stage, workload.AGENT) as ask:
        _run_template(stage, ask)
        ask(stage.new_sessions("warm-up", sizes.idle_warm_up))
        casts = {prior: _with_history(stage, "history", sizes.history_sessions, prior) for prior in sizes.history}
        stage.progress.say("history: turns, one by one")
        before = stage.sample()
        turns = 0
        for prior, sessions in casts.items():
            with stage.profiling(f"history-{prior}"):
                cold, warm = ask(sessions), ask(sessions * sizes.history_turns)
            figures[f"prior_{prior}_warm_p50_ms"] = latencies(warm)["p50_ms"]
            figures[f"prior_{prior}_cold_p50_ms"] = latencies(cold)["p50_ms"]
            turns += len(cold) + len(warm)
        after = stage.sample()
    used = after.usage.since(before.usage)
    first, last = (figures[f"prior_{prior}_warm_p50_ms"] for prior in (min(casts), max(casts)))
    figures["warm_longest_to_shortest"] = round((last or 0) / (first or 1), 3)
    return {
        "turns": turns,
        "seconds": round(used.at, 3),
        "foreign_cores": round(used.foreign_cores(), 3),
        "figures": figures,
    }


def _run_template(stage: Stage, ask: Ask) -> None:
    """The turn that histories are made of; once."""
    with stage.database.connected() as connection:
        if connection.execute("SELECT 1 FROM lash_sessions WHERE id = %s", (TEMPLATE,)).fetchone():
            return
    ask([TEMPLATE])


def _with_history(stage: Stage, name: str, count: int, prior: int) -> list[str]:
    sessions = stage.new_sessions(f"{name}-{prior}", count)
    if prior:
        stage.progress.say(f"{name}: writing {prior} prior turns for each of {count} sessions")
    with stage.database.connected() as connection:
        give_history(connection, sessions, prior)
    return sessions


# ---------------------------------------------------------------- take-over


def _takeover(stage: Stage, sizes: Sizes) -> Measured:
    """A worker is killed inside a model call, several times: from the kill to the commit by the other."""
    seconds: list[float] = []
    before = stage.sample()
    with stage.workers(2, TAKEOVER_THREADS) as workers:
        for number in range(sizes.kills):
            stage.progress.say(f"takeover: kill {number + 1} of {sizes.kills}")
            (session,) = stage.new_sessions("takeover", 1)
            with stage.driving(kind="one_by_one", agent=workload.HELD_AGENT) as driver:
                held = stage.endpoint_state("arm")["held"]
                driver.say([session])
                stage.until(partial(_holds_more_than, stage, held), "a model call that hangs")
                holder = _holder(stage, session)
                victim = next(worker for worker in workers if worker.pid == holder)
                killed_at = stage.clock.monotonic()
                victim.kill()
                ((_, ended),) = driver.hear()
                driver.say(None)
            seconds.append(ended - killed_at)
            workers[workers.index(victim)] = stage.start_worker(TAKEOVER_THREADS)
            stage.wait_for(workers)
    used = stage.sample().usage.since(before.usage)
    return {
        "turns": len(seconds),
        "seconds": round(used.at, 3),
        "foreign_cores": round(used.foreign_cores(), 3),
        "figures": {
            "kill_to_answer_median_ms": latencies(seconds)["p50_ms"],
            "kill_to_answer_max_ms": round(max(seconds) * 1000, 3),
            "lease_ttl_ms": sizes.lease_ttl * 1000,
        },
    }


def _holds_more_than(stage: Stage, held: int) -> bool:
    return stage.endpoint_state("state")["held"] > held


def _holder(stage: Stage, session: str) -> int:
    with stage.database.connected() as connection:
        row = connection.execute(HOLDER, (session,)).fetchone()
    if row is None:
        raise BenchFailed("nobody holds the turn whose model call hangs")
    return int(row[0])


_Part = Callable[[Stage, Sizes], Measured]
_PLAYS: Mapping[Scene, tuple[_Part, _Part]] = {
    Scene.SATURATED: (_saturated, _saturated_control),
    Scene.DELAYED: (_delayed, _delayed_control),
    Scene.IDLE: (_idle, _idle_control),
    Scene.HISTORY: (_history, _idle_control),
    Scene.WAL: (_wal, _saturated_control),
    Scene.TAKEOVER: (_takeover, _idle_control),
}
