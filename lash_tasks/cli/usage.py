"""`lash-tasks usage`."""

from __future__ import annotations

from typing import Annotated

import typer

from lash_tasks.cli.application import moment, open_client, session_id
from lash_tasks.cli.inspection import head_of
from lash_tasks.cli.output import JsonFlag, Output, command
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.usage import SessionUsageReport, UsageTotals
from lash_tasks.errors import InvalidInput


def usage(
    session: Annotated[str | None, typer.Option("--session", help="Only this session.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only turns committed since then (ISO 8601, else local time)."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="One document of the session: totals, by source, by model, last prompt.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the tokens that committed turns have used, by source and model."""
    with command(as_json) as output, open_client() as client:
        if report:
            if session is None or since is not None:
                raise InvalidInput("report", "needs --session, and takes no --since")
            head_of(client, session_id(session))
            _show_report(output, client.usage_report(session))
            return
        rows = [
            {
                "source": total.source,
                "model": total.model,
                "calls": total.calls,
                "input_tokens": total.usage.input_tokens,
                "output_tokens": total.usage.output_tokens,
                "cached_input_tokens": total.usage.cached_input_tokens,
                "reasoning_tokens": total.usage.reasoning_tokens,
                "total_tokens": total.usage.total_tokens,
                "context_total_tokens": UsageTotals.of(total.usage).context_total_tokens,
                "uncached_total_tokens": UsageTotals.of(total.usage).uncached_total_tokens,
            }
            for total in client.usage(session, since=moment("since", since))
        ]
        columns = ["source", "model", "calls", "input_tokens", "output_tokens", "total_tokens"]
        output.rows(rows, columns, empty="no tokens were counted")
        if rows:
            output.note("cached tokens are among the input, reasoning tokens among the output")


def _show_report(output: Output, report: SessionUsageReport) -> None:
    """The report as one document; for a person its rows, their total, and what else it says in words."""
    if output.as_json:
        output.document(to_json(SessionUsageReport, report))
        return
    rows = [_tokens(one.source, one.model, UsageTotals.of(one.usage)) for one in report.by_source_model]
    total = [_tokens("total", "", report.usage)] if rows else []
    columns = ["source", "model", "input_tokens", "output_tokens", "cached_input_tokens", "total_tokens"]
    output.rows(rows + total, columns, empty="no tokens were counted")
    if report.children_usage:
        output.say(f"of these its children used {sum(one.usage.total_tokens for one in report.children_usage)}")
    if report.last_prompt is not None:
        prompt = report.last_prompt
        cached = f"{prompt.cached_input_tokens} of them cached"
        output.say(f"its last prompt had {prompt.prompt_context_tokens} tokens, {cached}")


def _tokens(source: str, model: str, usage: UsageTotals) -> dict[str, str | int]:
    return {
        "source": source,
        "model": model,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "total_tokens": usage.total_tokens,
    }
