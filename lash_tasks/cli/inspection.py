"""`lash-tasks sessions`, `turns` and `queue`: looking at what is stored, and repairing it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lash_tasks.cli.output import JsonFlag, command
from lash_tasks.cli.sending import show_turn, turn_document
from lash_tasks.client import Client
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.ids import BatchId, SessionId, TurnId
from lash_tasks.domain.messages import Message, text_of
from lash_tasks.domain.queue import BatchRecord
from lash_tasks.domain.turns import TurnRecord
from lash_tasks.errors import NotFound

sessions = typer.Typer(help="Sessions.", no_args_is_help=True)
turns = typer.Typer(help="Turns.", no_args_is_help=True)
queue = typer.Typer(help="Queued input and dead letters.", no_args_is_help=True)

Session = Annotated[str, typer.Argument(help="The session's id.")]
OfSession = Annotated[str, typer.Option("--session", help="The session's id.")]
OfAnySession = Annotated[str | None, typer.Option("--session", help="Only this session.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
Input = Annotated[str, typer.Argument(help="The input's id.")]


@sessions.command("list")
def list_sessions(
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option("--after", help="Go on after this session id.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List sessions by id."""
    with command(as_json) as output, Client() as client:
        heads = client.stores.sessions.sessions(limit, SessionId(after) if after else None)
        rows = [
            {
                "session_id": head.session_id,
                "revision": head.head_revision,
                "turn_index": head.turn_index,
                "created_at_ms": head.created_at_ms,
            }
            for head in heads
        ]
        output.rows(rows, ["session_id", "revision", "turn_index", "created_at_ms"], empty="no sessions yet")


@sessions.command("show")
def show_session(session: Session, as_json: JsonFlag = False) -> None:
    """Show a session's transcript."""
    with command(as_json) as output, Client() as client:
        head = client.stores.sessions.head(SessionId(session))
        if head is None:
            raise NotFound("session", session)
        history = client.stores.sessions.history(SessionId(session))
        if output.as_json:
            messages = [to_json(Message, stored.node.message) for stored in history]
            output.document(
                {
                    "session_id": session,
                    "revision": head.head_revision,
                    "turn_index": head.turn_index,
                    "created_at_ms": head.created_at_ms,
                    "deleted_at_ms": head.deleted_at_ms,
                    "messages": messages,
                }
            )
            return
        output.note(f"{session}: revision {head.head_revision}, {head.turn_index} turns")
        for stored in history:
            message = stored.node.message
            kinds = ", ".join(part.type for part in message.parts if part.type != "text")
            text = text_of(message) or f"({kinds})"
            output.console.print(f"[bold]{message.role.value:>9}[/bold]  ", end="")
            output.console.print(text, markup=False)


@sessions.command("delete")
def delete_session(session: Session, as_json: JsonFlag = False) -> None:
    """Delete a session with everything in it; a running turn of it is stopped."""
    with command(as_json) as output, Client() as client:
        if not client.stores.sessions.delete(SessionId(session)):
            raise NotFound("session", session)
        output.document({"session_id": session, "deleted": True}, sentence=f"{session} is deleted")


@turns.command("list")
def list_turns(
    session: OfSession,
    limit: Limit = 100,
    after: Annotated[int, typer.Option("--after", min=0, help="Go on after this turn index.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """List a session's committed turns, oldest first."""
    with command(as_json) as output, Client() as client:
        records = client.stores.sessions.turns(SessionId(session), limit, after)
        committed = [record for record in records if record.result is not None]
        if output.as_json:
            rows = [_turn_row(record) for record in committed]
        else:
            rows = [{**_turn_row(record), **_summary(record)} for record in records]
        columns = ["turn_index", "turn_id", "status", "attempt", "committed_at_ms", "text"]
        output.rows(rows, columns, empty=f"{session} has no turns")


@turns.command("show")
def show_one_turn(
    session: Session,
    turn: Annotated[str, typer.Argument(help="The turn's id.")],
    as_json: JsonFlag = False,
) -> None:
    """Show one turn."""
    with command(as_json) as output, Client() as client:
        record = client.stores.sessions.turn(SessionId(session), TurnId(turn))
        if record is None:
            raise NotFound("turn", turn)
        if record.result is None:
            output.document(_turn_row(record))
        else:
            show_turn(output, record.result)


@queue.command("list")
def list_queue(session: OfAnySession = None, limit: Limit = 200, as_json: JsonFlag = False) -> None:
    """List input that waits or is being answered, in the order it will run."""
    with command(as_json) as output, Client() as client:
        batches = client.stores.queue.waiting(SessionId(session) if session else None, limit)
        columns = ["input_id", "session_id", "agent", "state", "turn_id", "available_at_ms"]
        output.rows([_batch_row(batch) for batch in batches], columns, empty="nothing waits")


@queue.command("cancel")
def cancel_input(session: Session, input_id: Input, as_json: JsonFlag = False) -> None:
    """Cancel input that no turn has taken yet."""
    with command(as_json) as output, Client() as client:
        cancellation = client.cancel(session, input_id=input_id)
        data = {"input_id": input_id, "verdict": cancellation.verdict.value, "turn_id": cancellation.turn_id}
        by_turn = f" by turn {cancellation.turn_id}" if cancellation.turn_id else ""
        output.document(data, sentence=f"{input_id}: {cancellation.verdict.value}{by_turn}")


@queue.command("dead")
def list_dead(session: OfAnySession = None, limit: Limit = 200, as_json: JsonFlag = False) -> None:
    """List dead letters, newest first."""
    with command(as_json) as output, Client() as client:
        letters = client.stores.queue.dead(SessionId(session) if session else None, limit)
        rows = [
            {
                "input_id": letter.batch_id,
                "session_id": letter.session_id,
                "turn_id": letter.turn_id,
                "reason": letter.reason,
                "died_at_ms": letter.died_at_ms,
                "replayed_as": letter.replayed_as,
            }
            for letter in letters
        ]
        output.rows(rows, ["input_id", "session_id", "reason", "died_at_ms", "replayed_as"], empty="no dead letters")


@queue.command("replay")
def replay_dead(input_id: Input, as_json: JsonFlag = False) -> None:
    """Send a dead letter's input again."""
    with command(as_json) as output, Client() as client:
        receipt = client.replay(BatchId(input_id))
        data = {"session_id": receipt.session_id, "input_id": receipt.input_id, "replay_of": input_id}
        output.document(data, sentence=f"accepted again as {receipt.input_id}")


def _turn_row(record: TurnRecord) -> dict[str, Any]:
    if record.result is not None:
        return turn_document(record.result)
    return {
        "session_id": record.session_id,
        "turn_id": record.turn_id,
        "turn_index": record.turn_index,
        "status": record.status.value,
        "agent": record.agent,
        "attempt": record.attempt,
        "holder": record.holder,
        "admitted_at_ms": record.admitted_at_ms,
    }


def _summary(record: TurnRecord) -> dict[str, Any]:
    text = record.result.text if record.result else ""
    return {
        "attempt": record.attempt,
        "committed_at_ms": record.committed_at_ms,
        "text": text if len(text) <= 60 else text[:57] + "…",
    }


def _batch_row(batch: BatchRecord) -> dict[str, Any]:
    return {
        "input_id": batch.id,
        "session_id": batch.session_id,
        "agent": batch.agent,
        "state": batch.state.value,
        "turn_id": batch.turn_id,
        "idempotency_key": batch.source_key,
        "available_at_ms": batch.available_at_ms,
        "enqueued_at_ms": batch.enqueued_at_ms,
    }
