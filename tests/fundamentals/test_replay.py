"""Resume is replay: a turn is run again from its beginning, and what the journal holds is not done again.

The machine is a function of the facts, so the same facts lead to the same place. Nothing of a turn that is under way
is stored but its journal.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import ReplayKey
from lash_tasks.domain.messages import Message, ToolResultPart
from lash_tasks.machine.effects import ModelReturned, PlannedCall, RunTools
from lash_tasks.machine.requests import ModelOutcome, ModelRequest, ModelResponse
from lash_tasks.machine.state import Turn
from lash_tasks.machine.turn import advance
from tests.fundamentals.small_runtime import SmallRuntime, call, calls, says, start


class WorkerDied(BaseException):
    """Not an Exception: a dying worker is no tool that failed."""


class DyingJournal(dict[ReplayKey, bytes]):
    """The journal of a worker that dies when it has recorded `lives` outcomes and done the next thing."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def __setitem__(self, key: ReplayKey, outcome: bytes) -> None:
        if len(self) == self.lives:
            raise WorkerDied
        super().__setitem__(key, outcome)


class Shop:
    """A model and two tools that remember what they were really asked to do."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def model(self, request: ModelRequest) -> ModelResponse:
        results = [part for part in request.messages[-1].parts if isinstance(part, ToolResultPart)]
        if not results:
            self.done.append("asked")
            return calls(
                call("a", "lookup_order", '{"order_id": "12"}'), call("b", "charge_card", '{"order_id": "12"}')
            )
        self.done.append("answered")
        return says("; ".join(result.text for result in results))

    def lookup_order(self, order_id: str) -> str:
        self.done.append("looked up")
        return f"order {order_id}"

    def charge_card(self, order_id: str) -> str:
        self.done.append("charged")
        return f"charged for {order_id}"

    def runtime(self, journal: dict[ReplayKey, bytes]) -> SmallRuntime:
        tools: dict[str, Callable[..., str]] = {"lookup_order": self.lookup_order, "charge_card": self.charge_card}
        return SmallRuntime(self.model, tools, journal)


ALL = ["asked", "looked up", "charged", "answered"]
RECORDS = 6
"""Two model calls, two tools, two checkpoints."""


def transcript(turn: Turn) -> bytes:
    return encode(tuple[Message, ...], turn.added)


def test_a_replay_does_nothing_again() -> None:
    """With a full journal, the turn is computed and nobody is asked anything."""
    shop, journal = Shop(), dict[ReplayKey, bytes]()
    first = shop.runtime(journal).run(start("Charge me."))
    assert shop.done == ALL
    assert len(journal) == RECORDS

    second = shop.runtime(journal).run(start("Charge me."))

    assert shop.done == ALL
    assert transcript(second) == transcript(first)


@pytest.mark.parametrize("lives", range(RECORDS))
def test_a_turn_that_dies_anywhere_ends_as_if_it_had_not(lives: int) -> None:
    """What was recorded is not repeated. Only what was done and not yet recorded is done a second time."""
    whole = Shop().runtime({}).run(start("Charge me."))
    shop, journal = Shop(), DyingJournal(lives)
    with pytest.raises(WorkerDied):
        shop.runtime(journal).run(start("Charge me."))
    done_before_death = list(shop.done)

    turn = shop.runtime(dict(journal)).run(start("Charge me."))

    assert transcript(turn) == transcript(whole)
    done_again = shop.done[len(done_before_death) :]
    assert len(done_again) == len(set(done_again))
    assert set(done_before_death) | set(done_again) == set(ALL)
    assert len(set(done_before_death) & set(done_again)) <= 1


def test_every_attempt_of_a_call_carries_the_same_key_to_the_outside() -> None:
    """A payment service that sees the idempotency key twice charges once."""

    def planned() -> PlannedCall:
        turn, _ = start("Charge me.")
        _, order = advance(turn, ModelReturned(ModelOutcome(calls(call("b", "charge_card", "{}")))))
        assert isinstance(order, RunTools)
        return order.calls[0]

    assert planned().idempotency_key == planned().idempotency_key
    assert planned().idempotency_key.startswith("lash-")
