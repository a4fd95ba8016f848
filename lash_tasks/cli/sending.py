"""`lash-tasks send` and `lash-tasks follow`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer

from lash_tasks.cli.output import JsonFlag, Output, command
from lash_tasks.client import Client
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.queue import When
from lash_tasks.domain.turns import AssembledTurn, Finished
from lash_tasks.errors import InvalidInput
from lash_tasks.observation.following import FollowEvent


def send(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    text: Annotated[str, typer.Argument(help="What to say.")],
    agent: Annotated[str, typer.Option("--agent", help="The agent that answers.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the turn and print it.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 60.0,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key.")] = None,
    when: Annotated[When, typer.Option("--when", help="queue, or reject if the session has work.")] = When.QUEUE,
    at: Annotated[str | None, typer.Option("--at", help="Not before this time (ISO 8601).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send text to a session."""
    with command(as_json) as output, Client() as client:
        receipt = client.send(
            session,
            text,
            agent=agent or _only_agent(client),
            idempotency_key=key,
            when=when.value,
            available_at=_time(at),
        )
        if not wait:
            status = str(receipt.status())
            data = {"session_id": session, "input_id": receipt.input_id, "created": receipt.created, "status": status}
            output.document(data, sentence=f"accepted as {receipt.input_id}")
            return
        with output.waiting("waiting for the turn"):
            turn = receipt.result(timeout=timeout)
        show_turn(output, turn)


def follow(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on after this cursor.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a session's live events as they happen, until interrupted."""
    with command(as_json) as output, Client() as client:
        try:
            for event in client.follow(session, cursor=cursor):
                _show_event(output, event)
        except KeyboardInterrupt:
            return


def show_turn(output: Output, turn: AssembledTurn) -> None:
    """A committed turn: the whole of it in JSON, its text and how it ended for a person."""
    if output.as_json:
        output.document(turn_document(turn))
        return
    output.note(f"turn {turn.turn_index}: {_outcome(turn)}, {turn.token_usage.total_tokens} tokens")
    for call in turn.tool_calls:
        output.note(f"  {call.tool}: {call.outcome.status.value}")
    for issue in turn.errors:
        output.note(f"  {issue.code}: {issue.message}")
    if turn.text:
        output.document({}, sentence=turn.text)


def turn_document(turn: AssembledTurn) -> dict[str, object]:
    """A turn as every `--json` prints it."""
    document: dict[str, object] = to_json(AssembledTurn, turn)
    return document


def _outcome(turn: AssembledTurn) -> str:
    if isinstance(turn.outcome, Finished):
        return "finished"
    return f"stopped ({turn.outcome.stop.type.value})"


def _show_event(output: Output, event: FollowEvent) -> None:
    data = {"type": event.type, "turn_id": event.turn_id, "cursor": event.cursor, "data": event.data}
    if output.as_json:
        output.document(data)
    elif event.type == "assistant_prose_delta":
        output.console.print(str(event.data.get("text", "")), end="", markup=False)
    else:
        output.console.print(f"\n{event.type} {json.dumps(event.data, ensure_ascii=False)}", markup=False, style="dim")


def _only_agent(client: Client) -> str:
    """The agent to talk to when none is named: the only one there is."""
    names = client.agents()
    if len(names) == 1:
        return names[0]
    known = ", ".join(names) or "none yet; start a worker"
    raise InvalidInput("agent", f"name one with --agent; known agents: {known}")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("at", "must be a time such as 2026-11-23T18:00:00+00:00") from None
    return moment.astimezone()
