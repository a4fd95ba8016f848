"""How a committed turn is shown: as one document, or to a person."""

from __future__ import annotations

from typing import assert_never

from lash_tasks.cli.output import Output
from lash_tasks.domain.codec import to_json
from lash_tasks.domain.turns import AgentFrameSwitch, AssembledTurn, Finished, Stopped, TurnOutcome


def turn_document(turn: AssembledTurn) -> dict[str, object]:
    """A turn as every `--json` prints it."""
    document: dict[str, object] = to_json(AssembledTurn, turn)
    return document


def show_turn(output: Output, turn: AssembledTurn) -> None:
    """The whole turn in JSON; for a person its text, and beside it how it came about."""
    if output.as_json:
        output.document(turn_document(turn))
        return
    for call in turn.tool_calls:
        output.note(f"{call.tool}: {call.outcome.status.value}, {call.outcome.duration_ms} ms")
    if turn.text:
        output.document({}, sentence=turn.text)
    for issue in turn.errors:
        output.note(f"{issue.code}: {issue.message}")
    output.note(summary(turn))


def summary(turn: AssembledTurn) -> str:
    """One line: which turn, how it ended, what it took."""
    again = f", attempt {turn.attempt}" if turn.attempt > 1 else ""
    return f"turn {turn.turn_index} {ended(turn.outcome)}{again}, {turn.token_usage.total_tokens} tokens"


def ended(outcome: TurnOutcome) -> str:
    """How a turn ended, in a few words."""
    match outcome:
        case Finished():
            return "finished"
        case Stopped():
            return f"stopped ({outcome.stop.type.value})"
        case AgentFrameSwitch():
            return f"went on in frame {outcome.frame_id}"
        case _:
            assert_never(outcome)
