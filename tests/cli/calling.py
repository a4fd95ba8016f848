"""Calling `lash-tasks`: in this process where it is about what a command does, as a process where it is about that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lash_tasks.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sysconfig.get_path("scripts")) / "lash-tasks"
LIMIT_SECONDS = 50.0


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[Any]:
        """Stdout as JSON lines; fails on anything else there."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def document(self) -> Any:
        """Stdout as one JSON document."""
        (document,) = self.lines
        return document

    @property
    def error(self) -> Any:
        """What the command was refused for, from a well-formed refusal."""
        assert self.exit_code == 1, self
        assert list(self.document) == ["error"], self
        error = self.document["error"]
        assert {"code", "message"} <= set(error) <= {"code", "message", "field", "session_id", "input_id"}
        assert "\n" not in error["message"]
        return error


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with the application's variables, and none of the developer's own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LASH_", "OPENAI_"))}
    return {**clean, "PYTHONPATH": str(ROOT), **variables}


def call(*arguments: str, **variables: str) -> Printed:
    """Run a command in this process. It sees no terminal."""
    settings: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("LASH_", "OPENAI_"))}
    result = CliRunner().invoke(app, list(arguments), env={**settings, **variables})
    return Printed(result.exit_code, result.stdout, result.stderr)


def run(*arguments: str, cwd: Path | None = None, **variables: str) -> Printed:
    """Run the console script to its end."""
    finished = subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    return Printed(finished.returncode, finished.stdout, finished.stderr)


def start(arguments: Sequence[str], log: Path, cwd: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start the console script; its stdout is read by the caller, its stderr goes to `log`."""
    with log.open("ab") as errors:
        return subprocess.Popen(
            [str(SCRIPT), *arguments],
            cwd=cwd,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,  # noqa: PLW1509 - it calls nothing that a fork could have left locked
        )


def _hear_interrupts() -> None:
    """A shell makes its background jobs deaf to SIGINT, and their children inherit that; a terminal's are not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python(code: str, **variables: str) -> Printed:
    """Run a piece of Python in a new interpreter."""
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment(**variables), capture_output=True, text=True, check=False
    )
    return Printed(finished.returncode, finished.stdout, finished.stderr)
