"""How a committed turn is shown: as one document, or to a person."""

from __future__ import annotations

from typing import assert_never

from lash_tasks.cli.output import Output
from lash_tasks.domain.codec import canonical, to_json
from lash_tasks.domain.turns import AgentFrameSwitch, AssembledTurn, Finished, Stopped, TurnOutcome


def turn_document(turn: AssembledTurn) -> dict[str, object]:
    """A turn as every `--json` prints it."""
    document: dict[str, object] = to_json(AssembledTurn, turn)
    return document


def show_turn(output: Output, turn: AssembledTurn) -> None:
    """The whole turn in JSON; for a person what it said, and beside it how it came about.

    Of a turn that did not finish how it ended, and why, is the result.
    """
    if output.as_json:
        output.document(turn_document(turn))
        return
    say = output.note if turn.ok else output.say
    for call in turn.tool_calls:
        output.note(f"{call.tool}: {call.outcome.status.value}, {call.outcome.duration_ms} ms")
    if turn.text:
        output.say(turn.text)
    elif turn.output is not None:
        output.say(canonical(turn.output).decode())
    for issue in turn.errors:
        say(f"{issue.code}: {issue.message}")
    say(summary(turn))


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
