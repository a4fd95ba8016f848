"""`lash-tasks send`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lash_tasks.cli.application import moment, open_client, session_id
from lash_tasks.cli.output import JsonFlag, command
from lash_tasks.cli.receipts import report
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.queue import When
from lash_tasks.errors import InvalidInput

if TYPE_CHECKING:
    from lash_tasks.client import Client


def send(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    text: Annotated[str, typer.Argument(help="What to say.")],
    agent: Annotated[
        str | None, typer.Option("--agent", help="Who answers; else the session's agent, or the only one.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the turn and print it; exit 1 if it did not finish.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait.")] = 60.0,
    model: Annotated[str | None, typer.Option("--model", help="provider:model, for this turn alone.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: sent twice, stored once.")] = None,
    when: Annotated[
        When,
        typer.Option(
            "--when",
            help="queue: after the current turn; steer: into it; interrupt: stop it, go next; "
            "reject: only if idle; merge: with others of the merge key.",
        ),
    ] = When.QUEUE,
    merge_key: Annotated[str | None, typer.Option("--merge-key", help="With --when merge: whom to share with.")] = None,
    quiet: Annotated[
        float | None,
        typer.Option(
            "--quiet",
            metavar="SECONDS",
            help="With --when merge: once none has come for so long.",
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Not before this time (ISO 8601, else local time).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send text to a session."""
    with command(as_json) as output, open_client() as client:
        receipt = client.send(
            session,
            text,
            agent=_agent_of(client, session_id(session)) if agent is None else agent,
            idempotency_key=key,
            model=model,
            when=when.value,
            merge_key=merge_key,
            quiet=quiet,
            available_at=moment("at", at),
        )
        report(output, receipt, wait=wait, timeout=timeout, key=key)


def _agent_of(client: Client, session: SessionId) -> str:
    """Who answers if none is named: the session's agent, else the only one with a worker, else the only one known."""
    own = client.stores.registry.agent_of(session)
    if own is not None:
        return own
    from lash_tasks.observation.held import LivingCode

    known, served = client.agents(), LivingCode(client.stores.fleet).agents
    for names in (sorted(served), known):
        if len(names) == 1:
            return names[0]
    listed = ", ".join(name if name in served else f"{name} (no worker)" for name in known)
    raise InvalidInput("agent", f"name one with --agent; known agents: {listed or 'none yet; start a worker'}")
