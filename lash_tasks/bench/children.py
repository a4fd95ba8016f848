"""The processes of a benchmark: started here, spoken to in lines of JSON, and gone when the benchmark is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

STOP_SECONDS = 15.0
TAIL_CHARACTERS = 2000


class BenchFailed(Exception):
    """A process of the benchmark ended, or never came to what was waited for."""


class Child:
    """One process: `python -m module`. Its errors go to a file; it ends when its input closes."""

    def __init__(self, module: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = module.rsplit(".", 1)[-1]
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=None if environment is None else dict(environment),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, message: object) -> None:
        try:
            self._input.write(json.dumps(message) + "\n")
            self._input.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def hear(self) -> Any:
        """Its next line; BenchFailed with the end of its log if it ends instead."""
        line = self._output.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> BenchFailed:
        self._process.wait(STOP_SECONDS)
        return BenchFailed(f"the {self.name} process ended early:\n{_tail(self._log)}")

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(STOP_SECONDS if kind is None else 1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


class WorkerProcess:
    """One `celery worker` of the benchmark's application, in a process group of its own."""

    def __init__(self, number: int, threads: int, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        application = "lash_tasks.bench.application"
        command = [sys.executable, "-m", "celery", "-A", application, "worker", "-P", "threads", "-c", str(threads)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "-n", f"lash-bench-{number}@%h"],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """BenchFailed, with the end of its log, if it does not run any more."""
        if self._process.poll() is not None:
            raise BenchFailed(f"a worker ended early:\n{_tail(self._log)}")

    def kill(self) -> None:
        """SIGKILL, without a word."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """Ask for an orderly stop, and do not wait for it."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait for the orderly stop that was asked for, or end it."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def endpoint(log: Path) -> Iterator[tuple[Child, str]]:
    """The model endpoint and its base URL."""
    with Child("lash_tasks.bench.endpoint", log=log) as child:
        yield child, f"http://127.0.0.1:{child.hear()}/v1"


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:]
