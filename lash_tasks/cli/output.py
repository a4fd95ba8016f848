"""What a command prints: one JSON document or JSON lines with `--json`, tables and sentences for a person."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lash_tasks.errors import LashError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]

INTERNAL_ERROR = "internal_error"
"""The code of a failure that no LashError stands for: a fault in the code or of the machine."""
UNLIMITED_WIDTH = 10_000


class Output:
    """Where a command prints to: results on stdout, what is said beside them on stderr.

    With `as_json` every result is one line of JSON, and nothing is said beside it. For a person a pipe gets the same
    text as a terminal, whole lines, without colours, frames and spinners.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        terminal = sys.stdout.isatty()
        self.console = Console(highlight=False, soft_wrap=True, width=None if terminal else UNLIMITED_WIDTH)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def document(self, data: Mapping[str, Any], *, sentence: str | None = None) -> None:
        """One result: the document itself, or for a person `sentence` or its fields."""
        if self.as_json:
            _print_json(data)
        elif sentence is not None:
            self.console.print(escape(sentence))
        else:
            fields = Table.grid(padding=(0, 2))
            for key, value in data.items():
                fields.add_row(f"[bold]{escape(_title(key))}[/bold]", escape(_cell(value, key)))
            self.console.print(fields)

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
        """A list: JSON lines, or a table of `columns`."""
        if self.as_json:
            for row in rows:
                _print_json(row)
            return
        if not rows:
            self.console.print(escape(empty))
            return
        table = Table(box=box.SIMPLE_HEAD if self.console.is_terminal else None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(_title(column), overflow="fold")
        for row in rows:
            table.add_row(*(escape(_cell(row.get(column), column)) for column in columns))
        self.console.print(table, soft_wrap=False)

    def say(self, sentence: str) -> None:
        """A result in words, for a person only."""
        if not self.as_json:
            self.console.print(escape(sentence))

    def note(self, sentence: str) -> None:
        """Something beside the result, for a person only."""
        if not self.as_json:
            self._errors.print(escape(sentence), style="dim")

    def fail(self, error: LashError) -> None:
        if self.as_json:
            _print_json({"error": error.as_json()})
        else:
            self._errors.print(f"[bold red]error:[/bold red] {escape(error.sentence())}")

    def crash(self, error: Exception) -> None:
        """An error that nobody foresaw: its traceback for whoever mends it, and the form of every other refusal."""
        traceback.print_exception(error)
        if self.as_json:
            message = f"an unexpected {type(error).__name__}; its traceback is on stderr"
            _print_json({"error": {"code": INTERNAL_ERROR, "message": message}})

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
    """The frame of every command: an error becomes its one sentence and exit code 1."""
    output = Output(as_json=as_json)
    try:
        yield output
    except LashError as error:
        output.fail(error)
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):  # a decision of ours, Ctrl-C, and `| head`
        raise
    except Exception as error:
        output.crash(error)
        raise typer.Exit(1) from None


def counted(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def time_text(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _title(field: str) -> str:
    """How a field is called for a person: `committed_at_ms` is `committed (UTC)`."""
    name = field.removesuffix("_at_ms")
    return name.replace("_", " ") + (" (UTC)" if name != field else "")


def _cell(value: Any, field: str) -> str:
    if value is None:
        return ""
    if field.endswith("_at_ms") and isinstance(value, int):
        return time_text(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=True, sort_keys=False) + "\n")
    sys.stdout.flush()
