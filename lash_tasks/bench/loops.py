"""How input is given to the workers: by many sessions in a closed loop, or one input at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lash_tasks.bench.children import BenchFailed, WorkerProcess
from lash_tasks.bench.sizes import Sizes
from lash_tasks.bench.stage import Measured, Stage, summary

LATENCIES = """
SELECT t.committed_at_ms - b.enqueued_at_ms FROM lash_turns t
JOIN lash_batches b ON b.session_id = t.session_id AND b.turn_id = t.turn_id
WHERE t.session_id = ANY(%s) AND t.committed_at_ms >= %s AND t.committed_at_ms < %s AND t.status = 'committed'"""

WARM_UP_ROUNDS = 3
"""A warm-up of so many turns a session is enough, also where more turns are asked for."""

Ask = Callable[[Sequence[str]], list[float]]
"""Gives each session one input, one after the other; the seconds of each turn."""


@contextmanager
def one_by_one(stage: Stage, agent: str) -> Iterator[Ask]:
    with stage.driving(kind="one_by_one", agent=agent) as driver:

        def ask(sessions: Sequence[str]) -> list[float]:
            driver.say(list(sessions))
            return [ended - started for started, ended in driver.hear()]

        yield ask
        driver.say(None)


def closed_loop(
    stage: Stage, sizes: Sizes, workers: Sequence[WorkerProcess], sessions: list[str], agent: str, turns: int
) -> Measured:
    """Each session sends its next input when it has its answer. Measured after a warm-up, for at least `turns`.

    Times are those of the database: an input was enqueued, its turn committed.
    """
    with stage.driving(kind="load", agent=agent, sessions=sessions) as driver:

        def committed() -> int:
            for worker in workers:
                worker.check()
            heard: dict[str, int] = driver.hear()
            stage.progress.show(f"{sessions[0].rpartition('-')[0]}: {heard['turns']} turns")
            return heard["turns"]

        give_up = stage.clock.monotonic() + sizes.at_most_seconds
        needed = min(sizes.warm_up_turns, WARM_UP_ROUNDS * len(sessions))
        while (warm := committed()) < needed:
            if stage.clock.monotonic() > give_up:
                raise BenchFailed(f"the warm-up of {needed} turns took more than {sizes.at_most_seconds:g} s")
        before = stage.sample()
        passed = 0.0
        with stage.profiling(sessions[0].rpartition("-")[0]):
            while passed < sizes.at_most_seconds:
                enough = committed() >= warm + turns
                passed = stage.clock.monotonic() - before.usage.at
                if enough and passed >= sizes.seconds:
                    break
            after = stage.sample()
        driver.say("stop")
        while "polls" not in (end := driver.hear()):
            pass
    with stage.database.connected() as connection:
        window = (sessions, before.meter.at_ms, after.meter.at_ms)
        seconds = [ms / 1000 for (ms,) in connection.execute(LATENCIES, window)]
    length = (after.meter.at_ms - before.meter.at_ms) / 1000
    return summary(before, after, seconds, length, uncounted=end["polls"] / end["seconds"] * length)
