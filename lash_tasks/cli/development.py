"""`lash-tasks up`: the development stack in one process."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated

import typer

from lash_tasks.cli.application import load_application
from lash_tasks.cli.output import JsonFlag, Output, command
from lash_tasks.stores.sql import schema


def up(
    context: typer.Context,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Turns at a time.")] = 16,
    as_json: JsonFlag = False,
) -> None:
    """Run a worker and the ticker: embedded on SQLite, or a Celery worker where Postgres is configured."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with command(as_json) as output:
        lash = load_application(context.obj)
        settings = lash.settings.embedded()
        if settings.dialect == "sqlite":
            with lash:
                _announce(output, settings.require_database_url(), "embedded", lash.agents)
                _wait_for_signal()
            return
        with output.waiting("migrating"):
            schema.upgrade(settings.require_database_url())
        _announce(output, "Postgres", "celery", lash.agents)
        lash.celery.worker_main(
            ["worker", "--pool", "threads", "--concurrency", str(concurrency), "--loglevel", "INFO"]
        )


def _announce(output: Output, database: str, wiring: str, agents: object) -> None:
    names = sorted(agents) if isinstance(agents, dict) else []
    sentence = f"up ({wiring}, {database}), agents: {', '.join(names)}; stop with Ctrl-C"
    output.document({"up": True, "wiring": wiring, "agents": names}, sentence=sentence)


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
