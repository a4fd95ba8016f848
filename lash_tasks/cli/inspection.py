"""`lash-tasks sessions` and `turns`: looking at what is committed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lash_tasks.cli.application import open_client, session_id
from lash_tasks.cli.output import JsonFlag, Output, command, counted
from lash_tasks.cli.turn_view import ended, show_turn, turn_document
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.founding import Preview
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.messages import Message, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.sessions import SessionHead, transcript
from lash_tasks.domain.turns import AssembledTurn, TurnRecord
from lash_tasks.errors import NotFound, SessionDeleted

if TYPE_CHECKING:
    from lash_tasks.client import Client
    from lash_tasks.observation.held import LivingCode

sessions = typer.Typer(help="Look at sessions, create, change and delete them.", no_args_is_help=True)
turns = typer.Typer(help="Look at turns, and ask one to stop.", no_args_is_help=True)

Session = Annotated[str, typer.Argument(help="The session's id.")]
Turn = Annotated[str, typer.Argument(help="The turn's id, or its index.")]
PAGE = 100


@sessions.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    after: Annotated[str | None, typer.Option("--after", help="Go on after this session id.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List sessions by id."""
    with command(as_json) as output, open_client() as client:
        heads = client.stores.sessions.sessions(limit, None if after is None else session_id(after, "after"))
        previews = client.stores.registry.previews([head.session_id for head in heads])
        rows = [_session_row(head, previews[head.session_id]) for head in heads]
        columns = ["session_id", "turn_index", "created_at_ms", "first_user_message"]
        output.rows(rows if output.as_json else [_shortened(row) for row in rows], columns, empty="no sessions yet")
        if len(rows) == limit:
            output.note(f"there may be more: --after {heads[-1].session_id}")


@sessions.command("show")
def show_session(session: Session, as_json: JsonFlag = False) -> None:
    """Show a session's transcript."""
    with command(as_json) as output, open_client() as client:
        name = session_id(session)
        head = head_of(client, name)
        history = transcript(stored.node for stored in client.stores.sessions.history(name))
        if not output.as_json:
            for message in history:
                show_message(output, message)
            output.note(f"{session}: {counted(head.turn_index, 'turn')}")
            return
        output.document(
            {
                **_session_row(head, client.stores.registry.previews([name])[name]),
                **_policy(client, name),
                "messages": [to_json(Message, message) for message in history],
            }
        )


@turns.command("list")
def list_turns(
    session: Annotated[str, typer.Option("--session", help="The session's id.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; else all.")] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Go on after this turn index.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """List a session's committed turns, oldest first; a person also sees the one that runs."""
    with command(as_json) as output, open_client() as client:
        records = _turns(client, session_id(session), after, limit)
        if output.as_json:
            for record in records:
                if record.result is not None:
                    output.document(turn_document(record.result))
            return
        from lash_tasks.observation.held import LivingCode

        living = LivingCode(client.stores.fleet)
        rows = [_summary(record, living) for record in records]
        output.rows(rows, ["turn", "turn_id", "status", "committed_at_ms", "text"], empty=f"{session} has no turns")


@turns.command("show")
def show_one_turn(session: Session, turn: Turn, as_json: JsonFlag = False) -> None:
    """Show one turn."""
    with command(as_json) as output, open_client() as client:
        record = _turn(client, session_id(session), turn)
        if record.result is None:
            from lash_tasks.observation.held import LivingCode

            output.document(_unfinished(record, LivingCode(client.stores.fleet)))
        else:
            show_turn(output, record.result)


@turns.command("cancel")
def cancel_turn(session: Session, turn: Turn, as_json: JsonFlag = False) -> None:
    """Ask a turn to stop; it commits as cancelled with what is complete."""
    with command(as_json) as output, open_client() as client:
        turn_id = _turn(client, session_id(session), turn).turn_id
        verdict = client.cancel(session, turn_id=turn_id).verdict.value
        output.document({"session_id": session, "turn_id": turn_id, "verdict": verdict}, sentence=f"{turn}: {verdict}")


def head_of(client: Client, session: SessionId) -> SessionHead:
    """The session that a command shows. Lists of one that does not exist are empty; to show it is refused."""
    head = client.stores.sessions.head(session)
    if head is None:
        raise NotFound("session", session)
    if head.deleted_at_ms is not None:
        raise SessionDeleted(session)
    return head


def _session_row(head: SessionHead, preview: Preview) -> dict[str, Any]:
    return {
        "session_id": head.session_id,
        "name": head.name or head.session_id,
        "revision": head.head_revision,
        "turn_index": head.turn_index,
        "created_at_ms": head.created_at_ms,
        "relation": head.relation,
        "usage_source": head.usage_source,
        "first_user_message": preview.first_user_message,
        "user_message_count": preview.user_message_count,
    }


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    text = " ".join((row["first_user_message"] or "").split())
    return {**row, "first_user_message": text if len(text) <= 60 else text[:59] + "…"}


def _policy(client: Client, session: SessionId) -> dict[str, Any]:
    """What the session says over its agent's policy, and what the two come to."""
    info = client.session(session)
    children = [child.session_id for child in client.children(session)]
    return {"spec": info.spec, "policy": None if info.policy is None else info.policy.as_json(), "children": children}


def _turn(client: Client, session: SessionId, named: str) -> TurnRecord:
    """The turn with this id, else with this index; NotFound."""
    record = client.stores.sessions.turn(session, TurnId(named))
    if record is None and named.isdecimal() and 0 < int(named) < 2**31:
        at_index = client.stores.sessions.turns(session, limit=1, after_index=int(named) - 1)
        record = next((one for one in at_index if one.turn_index == int(named)), None)
    if record is None:
        raise NotFound("turn", named)
    return record


def _turns(client: Client, session: SessionId, after: int, limit: int | None) -> Iterator[TurnRecord]:
    """The turns behind index `after`, read page by page."""
    left = limit
    while left is None or left > 0:
        page = client.stores.sessions.turns(session, PAGE if left is None else min(PAGE, left), after)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].turn_index
        left = None if left is None else left - len(page)


def _summary(record: TurnRecord, living: LivingCode) -> dict[str, Any]:
    text = _said(record.result) if record.result else ""
    held = living.why_held(record)
    return {
        "turn": record.turn_index,
        "turn_id": record.turn_id if record.result is None else None,
        "status": record.status.value if held is None else f"held: {held}",
        "committed_at_ms": record.committed_at_ms,
        "text": text if len(text) <= 60 else text[:59] + "…",
    }


def _said(turn: AssembledTurn) -> str:
    """A turn's text in one line; of one that says nothing which command it was, or how it ended."""
    if turn.text:
        return " ".join(turn.text.split())
    if isinstance(turn.output, dict) and "command" in turn.output:
        return f"[{turn.output['command']}]"
    return f"[{ended(turn.outcome)}]"


def _unfinished(record: TurnRecord, living: LivingCode) -> dict[str, Any]:
    return {
        "session_id": record.session_id,
        "turn_id": record.turn_id,
        "turn_index": record.turn_index,
        "status": record.status.value,
        "agent": record.agent,
        "attempt": record.attempt,
        "agent_ref": record.agent_ref,
        "machine_version": record.machine_version,
        "holder": record.holder,
        "held": living.why_held(record),
        "admitted_at_ms": record.admitted_at_ms,
    }


def show_message(output: Output, message: Message) -> None:
    """A message as a person reads it."""
    for part in message.parts:
        who = message.role.value
        match part:
            case TextPart():
                said = part.text
            case ToolCallPart():
                said = f"→ {part.tool} {part.arguments}"
            case ToolResultPart():
                who, said = "tool", f"← {part.tool} {part.text}"
            case _:
                said = f"({part.type})"
        output.console.print(f"[bold]{who:>9}[/bold]  ", end="")
        output.console.print(said, markup=False)
