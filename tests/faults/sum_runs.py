"""The figures of several runs under faults as one: `python -m tests.faults.sum_runs SUMMARY.json ...`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.checker import Wrong, percentile

COUNTS = ("inputs", "turns", "sent", "faults")
NUMBERS = (
    "commands",
    "openings",
    "turns_lost_with_a_worker",
    "turns_of_several_inputs",
    "model_calls",
    "model_calls_repeated",
    "tool_runs",
    "unfinished",
    "seconds",
    "doorbells_dropped",
    "doorbells_doubled",
    "workers_ended_alone",
    "stale_attempts",
    *(kind.value for kind in Wrong),
)
TIMES = ("take_over_seconds", "take_over_seconds_undisturbed")


def summed(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts added up, and the spread of all times together."""
    total: dict[str, Any] = {"runs": len(runs), "seeds": [run["seed"] for run in runs]}
    for name in COUNTS:
        keys = sorted({key for run in runs for key in run[name]})
        total[name] = {key: sum(run[name].get(key, 0) for run in runs) for key in keys}
    for name in NUMBERS:
        total[name] = round(sum(run.get(name, 0) for run in runs), 1)  # a summary of before knows fewer
    for name in TIMES:
        times = [seconds for run in runs for seconds in run[name]["all"]]
        total[name] = {"count": len(times), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summaries", nargs="+", type=Path)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(summed([json.loads(path.read_text()) for path in options.summaries]), indent=1) + "\n")


if __name__ == "__main__":
    main()
