"""What a command prints: one JSON document or JSON lines with `--json`, tables and sentences for a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lash_tasks.errors import LashError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


class Output:
    """Where a command prints to. With `json` every call prints one line of JSON on stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=True)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def document(self, data: Mapping[str, Any], *, sentence: str | None = None) -> None:
        """One result: the document itself, or for a person `sentence` or its fields."""
        if self.as_json:
            _print_json(data)
        elif sentence is not None:
            self.console.print(escape(sentence))
        else:
            table = Table.grid(padding=(0, 2))
            for key, value in data.items():
                table.add_row(f"[bold]{escape(key)}[/bold]", escape(_cell(value)))
            self.console.print(table)

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
        """A list: JSON lines, or a table of `columns`."""
        if self.as_json:
            for row in rows:
                _print_json(row)
            return
        if not rows:
            self.console.print(escape(empty))
            return
        table = Table(*columns, header_style="bold")
        for row in rows:
            table.add_row(*(escape(_cell(row.get(column), column)) for column in columns))
        self.console.print(table)

    def note(self, sentence: str) -> None:
        """Progress, for a person only; on stderr so that a pipe stays clean."""
        if not self.as_json:
            self._errors.print(escape(sentence), style="dim")

    def fail(self, error: LashError) -> None:
        if self.as_json:
            _print_json({"error": error.as_json()})
        else:
            self._errors.print(f"[bold red]error[/bold red] {escape(error.sentence())}")

    @contextmanager
    def waiting(self, sentence: str) -> Iterator[None]:
        """A spinner while something takes its time, where a person looks."""
        if self.as_json or not self._errors.is_terminal:
            yield
            return
        with self._errors.status(escape(sentence)):
            yield


@contextmanager
def command(as_json: bool) -> Iterator[Output]:
    """The frame of every command: a LashError becomes its one sentence and exit code 1."""
    output = Output(as_json=as_json)
    try:
        yield output
    except LashError as error:
        output.fail(error)
        raise typer.Exit(1) from None


def time_text(epoch_ms: int | None) -> str:
    if epoch_ms is None:
        return ""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _cell(value: Any, column: str = "") -> str:
    if value is None:
        return ""
    if column.endswith("_ms") and isinstance(value, int):
        return time_text(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=True, sort_keys=False) + "\n")
    sys.stdout.flush()
