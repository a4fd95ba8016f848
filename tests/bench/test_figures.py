"""What is computed from what was measured."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from lash_tasks.bench.accounting import Usage
from lash_tasks.bench.figures import FOREIGN_CORES, compare, is_valid, medians, percentile, processors, ratios
from lash_tasks.bench.profiling import top_functions


def scene(turns_per_s: float, *, foreign: float = 0.0, control: float = 100.0) -> dict[str, Any]:
    """A scene as it stands in a result."""
    figures, of_control = {"turns_per_s": turns_per_s, "wal_bytes_per_turn": 5000.0}, {"turns_per_s": control}
    part = {
        "foreign_cores": foreign,
        "controls": [{"foreign_cores": 0.0}, {"foreign_cores": 0.1}],
        "figures": figures,
        "control": of_control,
        "ratio": ratios(figures, of_control),
    }
    return {**part, "valid": is_valid(part)}


def result(*scenes: dict[str, Any]) -> dict[str, Any]:
    runs = [{"saturated": one} for one in scenes]
    return {"runs": runs, "medians": medians(runs)}


def test_foreign_load_in_the_scene_or_in_a_control_makes_it_invalid() -> None:
    busy = FOREIGN_CORES + 0.01
    assert is_valid(scene(50, foreign=FOREIGN_CORES))
    assert not is_valid(scene(50, foreign=busy))
    assert not is_valid({**scene(50), "controls": [{"foreign_cores": 0.0}, {"foreign_cores": busy}]})


def test_foreign_load_is_what_the_machine_did_and_no_group_did() -> None:
    before = Usage(10.0, MappingProxyType({"workers": 1.0}), 100.0)
    after = Usage(14.0, MappingProxyType({"workers": 4.0, "postgres": 1.0}), 106.0)

    used = after.since(before)

    assert used.groups == {"workers": 3.0, "postgres": 1.0}
    assert used.foreign_cores() == pytest.approx(0.5)


def test_medians_leave_invalid_runs_out_and_say_so() -> None:
    part = result(scene(40), scene(50), scene(60), scene(1000, foreign=1.0))["medians"]["saturated"]

    assert (part["runs"], part["valid_runs"]) == (4, 3)
    assert part["figures"]["turns_per_s"] == 50
    assert part["ratio"]["turns_per_s"] == 0.5


def test_without_a_valid_run_there_is_no_median() -> None:
    assert result(scene(40, foreign=1.0))["medians"] == {"saturated": {"runs": 1, "valid_runs": 0}}


def test_two_results_are_compared_by_their_ratios_to_the_control() -> None:
    """The second machine is twice as fast, and so is its control: nothing has changed."""
    rows = {row["figure"]: row for row in compare(result(scene(100, control=200)), result(scene(50, control=100)))}

    assert rows["turns_per_s"] == {
        "scene": "saturated",
        "figure": "turns_per_s",
        "of": "ratio",
        "before": 0.5,
        "now": 0.5,
        "change": 1.0,
    }
    assert rows["wal_bytes_per_turn"]["of"] == "figures"


def test_a_result_without_a_valid_run_is_compared_all_the_same() -> None:
    (row, _) = compare(result(scene(60, foreign=1.0)), result(scene(50)))
    assert row["change"] == pytest.approx(1.2)


def test_every_figure_of_the_controls_kind_has_a_ratio() -> None:
    ours = {"p50_ms": 20.0, "prior_100_warm_p50_ms": 30.0, "cpu_workers_s_per_1000_turns": 4.0, "turns_per_s": None}
    control = {"p50_ms": 10.0, "turns_per_s": 100.0, "cpu_s_per_1000_turns": 2.0}

    assert ratios(ours, control) == {"p50_ms": 2.0, "prior_100_warm_p50_ms": 3.0}


def test_processor_seconds_of_a_turn_are_those_of_workers_and_servers() -> None:
    figures = processors({"workers": 2.0, "postgres": 1.0, "endpoint": 5.0, "driver": 7.0}, turns=500)

    assert figures["cpu_s_per_1000_turns"] == 6.0
    assert figures["cpu_driver_s_per_1000_turns"] == 14.0
    assert figures["cpu_redis_s_per_1000_turns"] is None


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99)] == [51, 96, 100]
    assert percentile([7.0], 99) == 7.0


def test_a_profile_is_added_up_by_function_over_its_lines() -> None:
    stacks = ["run (a.py:1);query (b.py:10) 3\nrun (a.py:2);query (b.py:11) 4", "run (a.py:1) 3"]
    lines = top_functions(stacks)

    assert "  70.0%   query (b.py)" in lines
    assert " 100.0%   run (a.py)" in lines
