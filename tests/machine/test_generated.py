"""What the laws are tried on: a law that only met short turns would prove little."""

from __future__ import annotations

from hypothesis import given, settings

from lash_tasks.domain.messages import Origin
from lash_tasks.domain.turns import Finished, outcome_kind
from lash_tasks.machine.effects import RunTools
from tests.domain.laws import law
from tests.machine.generated import Played, played_turns


def test_the_generator_reaches_every_kind_of_end() -> None:
    seen: set[str] = set()
    counts = {"rounds": 0, "joined": 0, "finished": 0}

    @settings(law, max_examples=600)
    @given(played_turns())
    def look(played: Played) -> None:
        outcome = played.turn.outcome
        counts["rounds"] += sum(isinstance(order, RunTools) for order in played.orders)
        counts["joined"] += len(played.turn.joined)
        counts["finished"] += isinstance(outcome, Finished)
        seen.add(outcome_kind(outcome) if outcome else "none")
        seen.update(issue.code for issue in played.turn.issues)
        for message in played.turn.added:
            if isinstance(message.origin, Origin):
                seen.add(message.origin.kind)
        for record in played.turn.calls:
            seen.add(record.outcome.failure.code if record.outcome.failure else "success")

    look()
    assert seen >= {
        "finished",
        "cancelled",
        "incomplete",
        "max_turns",
        "provider_error",
        "runtime_error",
        "empty_response",
        "instructions_failed",
        "injected",
        "plugin",
        "plugin_abort",
        "plugin_prepare_turn",
        "plugin_checkpoint",
        "plugin_finalize_turn",
        "context_prepare_turn",
        "success",
        "invalid_tool_args",
        "tool_unavailable",
    }
    assert counts["rounds"] > 100
    assert counts["joined"] > 20
    assert counts["finished"] > 50
