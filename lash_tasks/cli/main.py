"""The commands and their groups."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Annotated

import typer

from lash_tasks.cli import (
    bench,
    demo,
    development,
    doctor,
    following,
    frames,
    inspection,
    migrations,
    queue,
    sending,
    session_changes,
    usage,
)
from lash_tasks.cli.logs import BriefFormatter, log_to_stderr

app = typer.Typer(
    name="lash-tasks",
    help="Durable LLM-agent sessions on Celery, Redis and Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command("demo")(demo.demo)
app.command("up")(development.up)
app.command("send")(sending.send)
app.command("follow")(following.follow)
inspection.sessions.command("frames")(frames.list_frames)
inspection.sessions.command("create")(session_changes.create_session)
inspection.sessions.command("rename")(session_changes.rename_session)
inspection.sessions.command("command")(session_changes.send_command)
inspection.sessions.command("delete")(session_changes.delete_session)
app.add_typer(inspection.sessions, name="sessions")
app.add_typer(inspection.turns, name="turns")
app.add_typer(queue.queue, name="queue")
app.command("usage")(usage.usage)
app.add_typer(migrations.db, name="db")
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lash-tasks {version('lash-tasks')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    application: Annotated[
        str | None,
        typer.Option(
            "--app", "-A", help="The application, as module or module:attribute.", envvar="LASH_APP", show_envvar=True
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Durable LLM-agent sessions on Celery, Redis and Postgres."""
    context.obj = application


def main() -> None:
    """The console script."""
    log_to_stderr(logging.WARNING, BriefFormatter())
    app()
