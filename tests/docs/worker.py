"""A Celery worker, started with the very command that a page shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lash_tasks.client import Client
from lash_tasks.settings import Settings
from tests.cli.calling import environment
from tests.services import wait_until

START_SECONDS = 40.0
STOP_SECONDS = 15.0


@contextmanager
def ready_worker(command: list[str], directory: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """The worker, from its first sign of life until the context ends; then it must stop when told."""
    log = directory / "worker.log"
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(**variables, PATH=path),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with Client(Settings.from_environment(variables)) as client:
            wait_until(
                lambda: process.poll() is not None or client.stores.fleet.workers(),
                START_SECONDS,
                "a sign of the worker",
            )
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        yield
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0, log.read_text(errors="replace")[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
