"""A long run of real workers under faults, and what it leaves behind.

`python -m tests.faults.long_run --kills 200 --zombies 30 --flushes 10 --redis-restarts 5 --postgres-restarts 3
--seed 1 --sessions 40 --part 1/4`. It starts a PostgreSQL with its default settings, a Redis without persistence, a
counting model endpoint, three workers and a sender of its own. Progress goes to stderr and the summary, a JSON object,
to stdout; exit 0 only if nothing is wrong. A run in parts has each part's share of the faults, on a fresh database.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lash_tasks.client import Client
from tests.faults import witness
from tests.faults.adversary import Adversary, Loss
from tests.faults.checker import Violation, Wrong, check, percentile
from tests.faults.cluster import Cluster
from tests.faults.conversation import CountingEndpoint
from tests.faults.evidence import Evidence, openings
from tests.faults.reading import committed, read_evidence, read_keys, unfinished
from tests.faults.schedule import FaultKind, schedule, share
from tests.faults.traffic import acknowledged, sent
from tests.services import PrivatePostgres, PrivateRedis, wait_until

LEASE_TTL = 2.0
OUTAGE_MS = 5000
"""How long the restart of a server may be felt."""
QUIET_SECONDS = 240.0
"""How long the workers may take for what is left when the last fault is over."""
TURNS_SECONDS = 60.0
"""How long it may take until the turns that are wanted are committed, when the last fault is over."""
SENDER_THREADS = 4
PAUSE_MS = 600
MEAN_GAP = 2.0
LONGEST_MODEL_MS, LONGEST_TOOL_MS = 500, 300
SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run, or one part of it."""

    counts: Mapping[FaultKind, int]
    seed: int
    sessions: int = 40
    workers: int = 3
    pause_ms: int = PAUSE_MS
    """The mean pause of each of the sender's threads between two inputs."""
    mean_gap: float = MEAN_GAP
    """Seconds between two faults."""
    turns: int = 0
    """How many are to be committed before the sender stops, if the faults are over sooner."""


def run(plan: Plan, directory: Path) -> dict[str, Any]:
    """Do it and check it; the summary."""
    with (
        PrivatePostgres(durable=True) as postgres,
        PrivateRedis() as redis,
        CountingEndpoint(LONGEST_MODEL_MS) as endpoint,
    ):
        cluster = Cluster(directory, postgres.url, redis.url, endpoint, LEASE_TTL)
        cluster.environment["LASH_TEST_TOOL_MS"] = str(LONGEST_TOOL_MS)
        cluster.environment["LASH_TEST_CONNECTION_NAME"] = witness.CONNECTION_NAME
        log, stop = directory / "sent.log", directory / "stop"
        command = [sys.executable, "-m", "tests.faults.sender", "--log", str(log), "--stop", str(stop)]
        numbers = {"seed": plan.seed, "sessions": plan.sessions, "threads": SENDER_THREADS, "pause-ms": plan.pause_ms}
        for name, number in numbers.items():
            command += [f"--{name}", str(number)]
        started = time.monotonic()
        with cluster.client() as client:
            witness.install(client)
        adversary = Adversary(
            cluster, postgres, redis, command, plan.sessions, plan.workers, zombie_seconds=1.5 * LEASE_TTL
        )
        with cluster.client() as client, adversary:
            _meet_faults(plan, adversary, client, log)
            adversary.wake_all()
            _wait_for_turns(plan, adversary, client)
            stop.touch()
            adversary.wait_for_sender()
            left = _wait_until_quiet(adversary, client)
            known = sent(plan.seed, plan.pause_ms, acknowledged(log), read_keys(client))
            evidence = read_evidence(client, known, endpoint.asked, cluster.tool_runs())
            commits, attempts = _commits(client), witness.stale_attempts(client)
        (directory / "commits.json").write_text(json.dumps([[*turn, at_ms] for turn, at_ms in commits.items()]))
        violations = check(evidence)
        violations += [
            Violation(Wrong.TWICE, "endpoint", f"{text!r} twice in one request") for text in endpoint.doubled
        ]
        summary = _summary(plan, adversary, evidence, violations, commits)
        return {
            **summary,
            "stale_attempts": attempts,
            "unfinished": left,
            "seconds": round(time.monotonic() - started, 1),
        }


@dataclass(frozen=True, slots=True)
class TakeOvers:
    """Seconds from the loss of a worker to the commit of a turn that it had."""

    after_each: list[float]
    """After every loss, also one that another followed before the commit."""
    undisturbed: list[float]
    """Where a worker that was up at the loss stayed up, and so did the servers."""


def take_overs(losses: list[Loss], outages: list[int], commits: Mapping[tuple[str, str], int]) -> TakeOvers:
    """The take-overs of a run."""
    found = TakeOvers([], [])
    for loss in losses:
        for turn in loss.turns:
            committed_ms = commits.get(turn, 0)
            if committed_ms <= loss.at_ms:
                continue
            seconds = (committed_ms - loss.at_ms) / 1000
            found.after_each.append(seconds)
            lost = {later.worker for later in losses if loss.at_ms < later.at_ms <= committed_ms}
            out = any(loss.at_ms - OUTAGE_MS < at_ms <= committed_ms for at_ms in outages)
            again = any(turn in later.turns for later in losses if loss.at_ms < later.at_ms <= committed_ms)
            if loss.others - lost and not out and not again:
                found.undisturbed.append(seconds)
    return found


def _meet_faults(plan: Plan, adversary: Adversary, client: Client, log: Path) -> None:
    faults = schedule(plan.seed, plan.counts, plan.mean_gap)
    adversary.rest(2.0)
    for number, fault in enumerate(faults, 1):
        adversary.rest(fault.after_seconds)
        adversary.inflict(fault)
        if number % 10 == 0 or number == len(faults):
            lines = sum(1 for _ in acknowledged(log))
            _say(f"{number} of {len(faults)} faults, {lines} inputs sent, {unfinished(client)} unfinished")


def _wait_for_turns(plan: Plan, adversary: Adversary, client: Client) -> None:
    def enough() -> bool:
        adversary.revive()
        return committed(client) >= plan.turns

    wait_until(enough, TURNS_SECONDS, f"{plan.turns} turns to be committed")


def _wait_until_quiet(adversary: Adversary, client: Client) -> int:
    """How many inputs have no end when time is up; none, as a rule."""

    def quiet() -> bool:
        adversary.revive()
        return unfinished(client) == 0

    try:
        wait_until(quiet, QUIET_SECONDS, "every input to have its end")
    except AssertionError:
        _say("time is up and there are inputs without an end")
    return unfinished(client)


def _commits(client: Client) -> dict[tuple[str, str], int]:
    return {
        (head.session_id, record.turn_id): record.committed_at_ms
        for head in client.stores.sessions.sessions(limit=10_000)
        for record in client.stores.sessions.turns(head.session_id, limit=100_000)
        if record.committed_at_ms is not None
    }


def _summary(
    plan: Plan,
    adversary: Adversary,
    evidence: Evidence,
    violations: list[Violation],
    commits: Mapping[tuple[str, str], int],
) -> dict[str, Any]:
    took = take_overs(adversary.losses, adversary.outages, commits)
    wrong = Counter(violation.wrong for violation in violations)
    states = Counter(one.state for one in evidence.stored)
    opened = openings(evidence)
    return {
        "seed": plan.seed,
        "sessions": plan.sessions,
        "workers": plan.workers,
        "lease_ttl": LEASE_TTL,
        "faults": {kind.value: adversary.done[kind] for kind in FaultKind},
        "doorbells_doubled": adversary.doubled,
        "doorbells_dropped": adversary.dropped,
        "workers_ended_alone": len(adversary.ended_alone),
        "turns_lost_with_a_worker": sum(len(loss.turns) for loss in adversary.losses),
        "sent": dict(sorted(Counter(one.when for one in evidence.sent).items())),
        "commands": sum(one.command for one in evidence.sent),
        "delayed": sum(one.delayed for one in evidence.sent),
        "refused": sum(not one.accepted for one in evidence.sent),
        "inputs": dict(sorted(states.items())),
        "turns": dict(sorted(Counter(turn.outcome for turn in evidence.turns).items())),
        "turns_of_several_inputs": sum(
            count > 1
            for count in Counter((one.session, one.turn_id) for one in evidence.stored if one.turn_id).values()
        ),
        "openings": opened,
        "model_calls": sum(evidence.asked.values()),
        "model_calls_repeated": sum(evidence.asked.values())
        - sum(row.kind == "llm_call" and row.done for row in evidence.journal),
        "tool_runs": sum(evidence.ran.values()) + sum(evidence.never_ran.values()),
        **{kind.value: wrong[kind] for kind in Wrong},
        "wrong": [str(violation) for violation in violations[:SHOWN]],
        "take_over_seconds": _spread(took.after_each),
        "take_over_seconds_undisturbed": _spread(took.undisturbed),
    }


def _spread(seconds: list[float]) -> dict[str, Any]:
    return {
        "count": len(seconds),
        "p50": percentile(seconds, 0.5),
        "p99": percentile(seconds, 0.99),
        "max": max(seconds, default=None),
        "all": sorted(seconds),
    }


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--zombies", type=int, default=30)
    parser.add_argument("--flushes", type=int, default=10)
    parser.add_argument("--redis-restarts", type=int, default=5)
    parser.add_argument("--postgres-restarts", type=int, default=3, help="every other one is a crash")
    parser.add_argument("--doorbells", type=int, default=40, help="how often messages are doubled, and dropped")
    parser.add_argument("--sender-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--pause-ms", type=int, default=PAUSE_MS, help="of each of the sender's four threads")
    parser.add_argument("--gap", type=float, default=MEAN_GAP, help="mean seconds between two faults")
    parser.add_argument("--part", default="1/1", help="run only this part of the faults, such as 2/4")
    parser.add_argument("--keep", type=Path, help="keep logs and evidence in this directory")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    wanted = {
        FaultKind.KILL: options.kills,
        FaultKind.ZOMBIE: options.zombies,
        FaultKind.FLUSH: options.flushes,
        FaultKind.REDIS_RESTART: options.redis_restarts,
        FaultKind.POSTGRES_CRASH: (options.postgres_restarts + 1) // 2,
        FaultKind.POSTGRES_RESTART: options.postgres_restarts // 2,
        FaultKind.DOUBLE_RINGS: options.doorbells,
        FaultKind.DROP_RINGS: options.doorbells,
        FaultKind.KILL_SENDER: options.sender_kills,
    }
    plan = Plan(
        counts={kind: share(count, part, parts) for kind, count in wanted.items()},
        seed=options.seed * 1000 + part,
        sessions=options.sessions,
        workers=options.workers,
        pause_ms=options.pause_ms,
        mean_gap=options.gap,
    )
    directory = Path(tempfile.mkdtemp(prefix="lash-long-run-")) if options.keep is None else options.keep
    directory.mkdir(parents=True, exist_ok=True)
    summary = run(plan, directory)
    sys.stdout.write(json.dumps({"part": options.part, **summary}, indent=1) + "\n")
    if options.keep is None:
        shutil.rmtree(directory)
    return 1 if summary["wrong"] or summary["unfinished"] or summary["stale_attempts"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
