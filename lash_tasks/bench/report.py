"""What a person reads of a benchmark: one table of figures per scene, one of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

Row = tuple[str, ...]


def scene_tables(result: Mapping[str, Any]) -> list[Table]:
    """A table for every scene of every run, and with several runs one of the medians for each scene."""
    runs = result["runs"]
    tables: list[Table] = []
    for number, run in enumerate(runs, 1):
        for name, scene in run.items():
            title = f"{name} (run {number} of {len(runs)})" if len(runs) > 1 else name
            verdict = "" if scene["valid"] else "  INVALID: foreign load, see foreign cores"
            table = _figures(f"{title}{verdict}", scene)
            loads = [scene["foreign_cores"], *(control["foreign_cores"] for control in scene["controls"])]
            table.add_row("foreign cores", f"{loads[0]:.2f}", ", ".join(f"{load:.2f}" for load in loads[1:]), "")
            tables.append(table)
    if len(runs) > 1:
        for name, part in result["medians"].items():
            title = f"{name}: medians of {part['valid_runs']} valid of {part['runs']} runs"
            if part["valid_runs"]:
                tables.append(_figures(title, part))
            else:
                tables.append(_table(f"{title}; nothing to take a median of", ()))
    return tables


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Two results beside each other."""
    table = _table("this run against the other", ("scene", "figure", "of", "before", "now", "now / before"))
    for row in rows:
        of = "ratio to control" if row["of"] == "ratio" else "figure"
        cells = (_number(row["before"]), _number(row["now"]), _number(row["change"]))
        table.add_row(row["scene"], _title(row["figure"]), of, *cells)
    return table


def _figures(title: str, scene: Mapping[str, Any]) -> Table:
    table = _table(title, ("figure", "measured", "control", "ratio"))
    for name, value in scene["figures"].items():
        control, ratio = scene["control"].get(name), scene["ratio"].get(name)
        table.add_row(_title(name), _number(value), _number(control), _number(ratio))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _title(name: str) -> str:
    return name.removesuffix("_ms").replace("_per_s", "/s").replace("_", " ") + (
        " (ms)" if name.endswith("_ms") else ""
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
