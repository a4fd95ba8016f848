"""`lash-tasks doctor`: is everything there that a turn needs, and if not, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from lash_tasks.cli.output import JsonFlag, Output, command
from lash_tasks.settings import Settings

if TYPE_CHECKING:
    from lash_tasks.cli.doctor_checks import Finding

_MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failed": "[bold red]failed[/bold red]"}


def doctor(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Check database, schema, clocks, Redis, broker, workers, queues and waiting work. Exit 1 if something fails.

    With an application it looks at the settings of its Celery app too.
    """
    with command(as_json) as output:
        from lash_tasks.cli.doctor_application import examine_application
        from lash_tasks.cli.doctor_checks import Health, examine

        settings = Settings.from_environment()
        settings.require_database_url()
        with output.waiting("examining"):
            findings = [*examine(settings), *examine_application(context.obj, settings)]
        well = all(finding.health is not Health.FAILED for finding in findings)
        _report(output, findings, well)
        if not well:
            raise typer.Exit(1)


def _report(output: Output, findings: list[Finding], well: bool) -> None:
    if output.as_json:
        rows = [
            {"check": one.check, "health": one.health.value, "message": one.message, "advice": one.advice}
            for one in findings
        ]
        output.document({"ok": well, "findings": rows})
        return
    table = Table.grid(padding=(0, 2))
    for one in findings:
        table.add_row(_MARKS[one.health.value], one.check, escape(one.message))
        if one.advice:
            table.add_row("", "", f"[bold]→ {escape(one.advice)}[/bold]")
    output.console.print(table, soft_wrap=False)
