"""The commands and their groups."""

from __future__ import annotations

from typing import Annotated

import typer

from lash_tasks.cli import demo, development, doctor, inspection, migrations, sending

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
app.command("follow")(sending.follow)
app.add_typer(inspection.sessions, name="sessions")
app.add_typer(inspection.turns, name="turns")
app.add_typer(inspection.queue, name="queue")
app.add_typer(migrations.db, name="db")
app.command("doctor")(doctor.doctor)


@app.callback()
def options(
    context: typer.Context,
    application: Annotated[
        str | None,
        typer.Option(
            "--app", "-A", help="The application, as module or module:attribute.", envvar="LASH_APP", show_envvar=True
        ),
    ] = None,
) -> None:
    """Durable LLM-agent sessions on Celery, Redis and Postgres."""
    context.obj = application


def main() -> None:
    """The console script."""
    app()
