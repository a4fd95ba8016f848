"""`lash-tasks up`: the development stack in one process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lash_tasks.cli.application import load_application
from lash_tasks.cli.logs import KeyedFormatter, log_to_stderr
from lash_tasks.cli.output import JsonFlag, Output, command

if TYPE_CHECKING:
    from types import FrameType

    from lash_tasks.app import Lash


def up(
    context: typer.Context,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Turns at a time, where a Celery worker runs them.")
    ] = 16,
    as_json: JsonFlag = False,
) -> None:
    """Run a worker and the ticker: embedded on SQLite, or a Celery worker where Postgres is configured."""
    with command(as_json) as output:
        log_to_stderr(logging.INFO, KeyedFormatter())
        with redirect_stdout(sys.stderr):
            lash = load_application(context.obj)
        if lash.embedded or lash.settings.embedded().dialect == "sqlite":
            _run_embedded(output, lash)
        else:
            raise typer.Exit(_run_celery(output, lash, concurrency))


def _run_embedded(output: Output, lash: Lash) -> None:
    url = str(lash.settings.embedded().database_url)
    with _stop_signal() as stop, lash:
        _announce(output, lash, "embedded", url)
        if lash.settings.database_url is None:
            path = Path(url.removeprefix("sqlite:///")).resolve()
            output.note(f"in other terminals: export LASH_DATABASE_URL=sqlite:///{path}")
        stop.wait()
        output.note("stopping; what runs gets its grace, a second signal ends it at once")


def _run_celery(output: Output, lash: Lash, concurrency: int) -> int:
    """Run a worker in this process until it is told to stop; its exit code."""
    from celery import signals

    from lash_tasks.stores.bundle import open_stores
    from lash_tasks.stores.sql import schema

    stores = open_stores(lash.settings)
    try:
        with output.waiting("migrating"):
            schema.upgrade(stores.database.engine)
    finally:
        stores.close()
    _announce(output, lash, "celery", "Postgres")

    def keep_our_logging(**_: object) -> None:
        """Celery sets logging up unless somebody listens to this signal."""

    signals.setup_logging.connect(keep_our_logging, weak=False)
    arguments = ["--quiet", "worker", "--pool", "threads", "--concurrency", str(concurrency)]
    return int(lash.celery.start(arguments) or 0)


def _announce(output: Output, lash: Lash, wiring: str, database: str) -> None:
    """Say that it runs; from here on whatever Celery and the tools print goes to stderr."""
    names = sorted(lash.agents)
    sentence = f"up ({wiring}, {database}), agents: {', '.join(names) or 'none'}; stop with Ctrl-C"
    output.document({"up": True, "wiring": wiring, "agents": names}, sentence=sentence)
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one does what it does without us."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        restore()
