"""What `send` and `sessions command` print of accepted input: its receipt, or the turn that answers it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

from lash_tasks.cli.output import Output
from lash_tasks.cli.turn_view import show_turn
from lash_tasks.errors import ResultTimeout

if TYPE_CHECKING:
    from lash_tasks.client import Receipt


class AnswerTimeout(ResultTimeout):
    """The wait is over, the work goes on; says how to find the input again without its receipt."""

    def __init__(self, session_id: str, input_id: str, seconds: float, key: str | None) -> None:
        super().__init__(session_id, seconds)
        self.args = (session_id, input_id, seconds, key)

    def sentence(self) -> str:
        session_id, _, seconds, key = self.args
        again = "" if key is None else f"send again with --key {shlex.quote(key)} --wait, or "
        return (
            f"no result in session {session_id!r} after {seconds:g} s; the work goes on: {again}look at "
            f"lash-tasks turns list --session {shlex.quote(session_id)}"
        )

    def as_json(self) -> dict[str, str]:
        session_id, input_id, *_ = self.args
        return {**super().as_json(), "session_id": session_id, "input_id": input_id}


def report(output: Output, receipt: Receipt, *, wait: bool, timeout: float, key: str | None) -> None:
    """Print the receipt, or with `wait` the turn, once it is committed; exit 1 if that turn did not finish.

    AnswerTimeout after `timeout` seconds; `key` is the one under which the input can be sent again.
    """
    accepted = f"accepted as {receipt.input_id}" if receipt.created else f"accepted before as {receipt.input_id}"
    if not wait:
        data = {
            "session_id": receipt.session_id,
            "input_id": receipt.input_id,
            "created": receipt.created,
            "status": str(receipt.status()),
        }
        output.document(data, sentence=accepted)
        return
    output.note(accepted)
    try:
        with output.waiting("waiting for the turn"):
            turn = receipt.result(timeout=timeout)
    except ResultTimeout:
        raise AnswerTimeout(receipt.session_id, receipt.input_id, timeout, key) from None
    show_turn(output, turn)
    if not turn.ok:
        raise typer.Exit(1)
