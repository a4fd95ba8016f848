"""`lash-tasks queue`: input that waits, and dead letters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lash_tasks.cli.application import open_client, session_id
from lash_tasks.cli.output import JsonFlag, Output, command
from lash_tasks.domain.queue import BatchRecord

queue = typer.Typer(help="Queued input and dead letters.", no_args_is_help=True)

OfAnySession = Annotated[str | None, typer.Option("--session", help="Only this session.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
Input = Annotated[str, typer.Argument(help="The input's id.")]


@queue.command("list")
def list_queue(session: OfAnySession = None, limit: Limit = 200, as_json: JsonFlag = False) -> None:
    """List input that waits or is being answered, in the order it will run."""
    with command(as_json) as output, open_client() as client:
        batches = client.stores.queue.waiting(None if session is None else session_id(session), limit)
        columns = ["input_id", "session_id", "agent", "kind", "state", "available_at_ms"]
        output.rows([_batch_row(batch) for batch in batches], columns, empty="nothing waits")
        _note_limit(output, len(batches), limit)


@queue.command("cancel")
def cancel_input(
    session: Annotated[str, typer.Argument(help="The session's id.")], input_id: Input, as_json: JsonFlag = False
) -> None:
    """Cancel input that no turn has taken yet."""
    with command(as_json) as output, open_client() as client:
        cancellation = client.cancel(session, input_id=input_id)
        data = {"input_id": input_id, "verdict": cancellation.verdict.value, "turn_id": cancellation.turn_id}
        by_turn = f" by turn {cancellation.turn_id}" if cancellation.turn_id else ""
        output.document(data, sentence=f"{input_id}: {cancellation.verdict.value}{by_turn}")


@queue.command("dead")
def list_dead(session: OfAnySession = None, limit: Limit = 200, as_json: JsonFlag = False) -> None:
    """List dead letters, newest first."""
    with command(as_json) as output, open_client() as client:
        letters = client.stores.queue.dead(None if session is None else session_id(session), limit)
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
        _note_limit(output, len(rows), limit)


@queue.command("replay")
def replay_dead(input_id: Input, as_json: JsonFlag = False) -> None:
    """Send a dead letter's input again."""
    with command(as_json) as output, open_client() as client:
        receipt = client.replay(input_id)
        data = {"session_id": receipt.session_id, "input_id": receipt.input_id, "replay_of": input_id}
        again = "accepted again" if receipt.created else "was accepted again before"
        output.document(data, sentence=f"{again} as {receipt.input_id}")


def _note_limit(output: Output, found: int, limit: int) -> None:
    if found == limit:
        output.note(f"these are the first {limit}; --limit shows more")


def _batch_row(batch: BatchRecord) -> dict[str, Any]:
    return {
        "input_id": batch.id,
        "session_id": batch.session_id,
        "agent": batch.agent,
        "kind": "input" if batch.kind is None else batch.kind.value,
        "state": batch.state.value,
        "turn_id": batch.turn_id,
        "idempotency_key": batch.source_key,
        "urgent": batch.urgent,
        "steers": batch.early,
        "merge_key": None if batch.early else batch.merge_key,
        "quiet_ms": batch.quiet_ms,
        "available_at_ms": batch.available_at_ms,
        "enqueued_at_ms": batch.enqueued_at_ms,
    }
