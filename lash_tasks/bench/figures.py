"""The figures of a benchmark: what is computed from what was measured, medians of runs, and comparisons."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FOREIGN_CORES = 0.3
"""More load than this from anybody else makes a run invalid."""

Figures = dict[str, float | None]
"""Figures by name. None: not measured here, because a server is elsewhere or there is no control for it."""

CONTROLLED = ("turns_per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_s_per_1000_turns")
"""What the control measures too."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` do not exceed. ValueError for none."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def latencies(seconds: Sequence[float]) -> Figures:
    return {f"p{percent}_ms": round(percentile(seconds, percent) * 1000, 3) for percent in (50, 95, 99)}


def processors(groups: Mapping[str, float], turns: int) -> Figures:
    """CPU seconds per 1000 turns: one figure for workers and servers together, and one for each group.

    Endpoint and driver are in no sum. A server that cannot be read is None, and the sum is then the workers' alone.
    """
    each = {name: groups.get(name) for name in ("workers", "postgres", "redis", "endpoint", "driver")}
    of_turns = sum(each[name] or 0.0 for name in ("workers", "postgres", "redis"))
    figures: Figures = {"cpu_s_per_1000_turns": round(of_turns * 1000 / turns, 3)}
    for name, used in each.items():
        figures[f"cpu_{name}_s_per_1000_turns"] = None if used is None else round(used * 1000 / turns, 3)
    return figures


def mean(before: Figures, after: Figures) -> Figures:
    """The control: the mean of what was measured before and after the scene."""
    result: Figures = {}
    for name, first in before.items():
        second = after.get(name)
        result[name] = None if first is None or second is None else (first + second) / 2
    return result


def ratios(ours: Mapping[str, float | None], control: Mapping[str, float | None]) -> Figures:
    """Ours / control, for every figure of a kind that the control has, such as `p50_ms` and `prior_0_warm_p50_ms`."""
    result: Figures = {}
    for name, mine in ours.items():
        kind = next((kind for kind in CONTROLLED if name == kind or name.endswith(f"_{kind}")), None)
        other = None if kind is None else control.get(kind)
        if mine is not None and other:
            result[name] = round(mine / other, 4)
    return result


def is_valid(scene: Mapping[str, Any]) -> bool:
    """Whether nobody else disturbed a scene or its controls."""
    loads = (scene["foreign_cores"], *(control["foreign_cores"] for control in scene["controls"]))
    return all(load <= FOREIGN_CORES for load in loads)


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For every scene the medians of its valid runs, and of how many there were."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    result: dict[str, Any] = {}
    for name in names:
        scenes = [run[name] for run in runs if name in run]
        valid = [scene for scene in scenes if scene["valid"]]
        part: dict[str, Any] = {"runs": len(scenes), "valid_runs": len(valid)}
        if valid:
            for kind in ("figures", "control", "ratio"):
                part[kind] = _median_of([scene[kind] for scene in valid])
        result[name] = part
    return result


def _median_of(many: Sequence[Figures]) -> Figures:
    result: Figures = {}
    for name in dict.fromkeys(name for figures in many for name in figures):
        values = [value for figures in many if (value := figures.get(name)) is not None]
        result[name] = round(statistics.median(values), 4) if values else None
    return result


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two runs, figure by figure: `change` is now / before, of ratios to the control where there are any.

    Two machines, or two hours of one machine, have different controls: the ratio to the control is what compares.
    """
    rows: list[dict[str, Any]] = []
    for scene, mine in _best(now).items():
        other = _best(before).get(scene)
        if other is None:
            continue
        for name in mine["figures"]:
            of_control = name in mine["ratio"] and name in other["ratio"]
            kind = "ratio" if of_control else "figures"
            first, second = other[kind].get(name), mine[kind].get(name)
            change = round(second / first, 4) if first and second is not None else None
            rows.append({"scene": scene, "figure": name, "of": kind, "before": first, "now": second, "change": change})
    return rows


def _best(result: Mapping[str, Any]) -> dict[str, Any]:
    """Per scene the medians of the valid runs; where no run was valid, those of all."""
    found: dict[str, Any] = {}
    for scene, part in result["medians"].items():
        if "figures" in part:
            found[scene] = part
        else:
            every = [run[scene] for run in result["runs"] if scene in run]
            found[scene] = {kind: _median_of([one[kind] for one in every]) for kind in ("figures", "ratio")}
    return found
