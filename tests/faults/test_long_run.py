"""A short run under every kind of fault; `python -m tests.faults.long_run` is the long one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.adversary import Loss
from tests.faults.long_run import Plan, run, take_overs
from tests.faults.schedule import FaultKind, schedule, share
from tests.faults.sum_runs import COUNTS as SUMMED
from tests.faults.sum_runs import NUMBERS, TIMES, summed
from tests.faults.traffic import Acknowledged, planned, sent

COUNTS = {
    FaultKind.KILL: 4,
    FaultKind.ZOMBIE: 2,
    FaultKind.FLUSH: 1,
    FaultKind.REDIS_RESTART: 1,
    FaultKind.POSTGRES_CRASH: 1,
    FaultKind.DOUBLE_RINGS: 1,
    FaultKind.DROP_RINGS: 1,
    FaultKind.KILL_SENDER: 1,
}
TURNS = 120


@pytest.mark.timeout(240)
@pytest.mark.shows("T20")
def test_a_run_under_every_kind_of_fault_loses_and_doubles_nothing(
    tmp_path: Path, report: Callable[[str, float], None]
) -> None:
    """Smaller than the case says, for its time: 12 sessions on 3 workers, ten turns each on the average."""
    summary = run(Plan(counts=COUNTS, seed=1, sessions=12, mean_gap=1.0, pause_ms=300, turns=TURNS), tmp_path)
    assert summary["wrong"] == []
    assert summary["stale_attempts"] == 0
    assert summary["unfinished"] == 0
    assert {kind: summary["faults"][kind] for kind in COUNTS} == COUNTS
    assert sum(summary["turns"].values()) >= TURNS
    report("turns", sum(summary["turns"].values()))
    report("inputs answered", summary["inputs"]["committed"])
    report("longest take-over in seconds", summary["take_over_seconds"]["max"] or 0.0)


def test_a_schedule_follows_from_its_seed_and_has_every_fault_that_is_asked_for() -> None:
    faults = schedule(3, COUNTS, 1.0)
    assert faults == schedule(3, COUNTS, 1.0)
    assert faults != schedule(4, COUNTS, 1.0)
    assert {kind: sum(fault.kind is kind for fault in faults) for kind in COUNTS} == COUNTS


def test_a_sender_was_told_what_became_of_its_cancel_only_if_it_had_asked_and_could_say_so() -> None:
    plans = [planned(1, "s0", number, 400) for number in range(1, 60)]
    cancel = next(plan for plan in plans if plan.cancel)
    other = next(plan for plan in plans if not plan.cancel)

    def told(number: int, *, accepted: bool = True, cancelled: bool = False) -> bool | None:
        line = Acknowledged(session="s0", number=number, accepted=accepted, cancelled=cancelled)
        return sent(1, 400, [line], set())[0].told_cancelled

    assert told(cancel.number, cancelled=True) is True
    assert told(cancel.number) is False
    assert told(cancel.number, accepted=False) is None
    assert told(other.number) is None
    before = Acknowledged(session="s0", number=cancel.number - 1, accepted=True, cancelled=False)
    _, unsure = sent(1, 400, [before], {cancel.source_key})
    assert (unsure.key, unsure.cancel_asked, unsure.told_cancelled) == (cancel.key, True, None)


def test_the_parts_of_a_run_add_up_to_it() -> None:
    assert [share(10, part, 4) for part in (1, 2, 3, 4)] == [2, 3, 2, 3]


def test_a_take_over_lasts_from_the_loss_to_the_commit_of_the_turn() -> None:
    turn, later, never = ("s", "t1"), ("s", "t2"), ("s", "t3")
    losses = [Loss(1000, "a", [turn, later, never], frozenset("b")), Loss(3000, "c", [turn], frozenset("b"))]
    commits = {turn: 3500, later: 2000}
    assert take_overs(losses, [], commits).after_each == [2.5, 1.0, 0.5], "one was never committed"


def test_a_take_over_is_undisturbed_while_a_worker_and_the_servers_stay_up() -> None:
    turn = ("s", "t1")
    first, commits = Loss(10_000, "a", [turn], frozenset("b")), {turn: 12_500}

    def undisturbed(*later: Loss, outages: list[int]) -> list[float]:
        return take_overs([first, *later], outages, commits).undisturbed

    assert undisturbed(outages=[]) == [2.5]
    assert undisturbed(Loss(12_600, "b", []), outages=[20_000]) == [2.5]
    assert undisturbed(Loss(11_000, "b", []), outages=[]) == []
    assert undisturbed(Loss(11_000, "c", [turn]), outages=[]) == []
    assert undisturbed(outages=[9_000]) == undisturbed(outages=[11_000]) == []


def test_runs_are_summed_with_all_their_times() -> None:
    def run(seed: int, lost: int, *times: float) -> dict[str, Any]:
        spread = {"all": list(times)}
        counts = {name: {"kill": 1} for name in SUMMED}
        numbers = {**dict.fromkeys(NUMBERS, 0), "lost": lost}
        return {"seed": seed, **counts, **numbers, **dict.fromkeys(TIMES, spread)}

    total = summed([run(1, 0, 2.0, 3.0), run(2, 1, 9.0)])
    assert (total["seeds"], total["faults"], total["lost"]) == ([1, 2], {"kill": 2}, 1)
    before = {name: number for name, number in run(3, 0).items() if name not in ("miscounted", "stale_attempts")}
    assert summed([before, run(4, 0)])["stale_attempts"] == 0, "a summary of before has fewer figures"
    assert total["take_over_seconds"] == {"count": 3, "p50": 3.0, "p99": 9.0}
